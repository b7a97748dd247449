"""A real worker process with a tiny bundle: it scores as the engine does, and its end is seen."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from adapters.evidence_files import file_hash
from adapters.ports import FrameFormat
from daemon.errors import WorkerError
from daemon.worker.handle import SILENT_BEATS, WorkerHandle
from daemon.worker.protocol import (
    BEAT_SECONDS,
    FrameRef,
    FromWorker,
    Load,
    RecipeFiles,
    Refused,
    Score,
    Scored,
)
from daemon.worker.ring import PAGE, Ring
from model import bundle as bundles
from model.bundle import Bundle
from model.calibration import Calibration, beside
from model.engine import Engine
from model.errors import BundleError
from model.judgement import Judgement

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

FORMAT = FrameFormat(70, 96, 1, "uint8")
SMALL = FrameFormat(63, 96, 1, "uint8")
COLOUR = FrameFormat(64, 64, 3, "uint8")
BIG = FrameFormat(2048, 2048, 1, "uint8")


def load(bundle: Path, name: str = "default", bundle_hash: str | None = None) -> Load:
    if bundle_hash is None:
        try:
            bundle_hash = bundles.load(bundle).hash
        except BundleError:
            bundle_hash = ""
    calibration = beside(bundle)
    hashes = bundle_hash, file_hash(calibration)
    return Load((RecipeFiles(name, str(bundle), str(calibration), *hashes),), "cpu")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring() -> AsyncIterator[Ring]:
    ring = Ring.create([BIG.nbytes] * 4)
    yield ring
    ring.close()


@dataclass
class Started:
    """Begun all at once, since torch is slow to come up."""

    plain: WorkerHandle
    strict: WorkerHandle
    """Its threshold is 0: every frame has a defect."""
    third: WorkerHandle
    fourth: WorkerHandle
    torn: WorkerError
    """What a truncated bundle ended in."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(
    ring: Ring,
    module_files: Path,
    tiny_bundle: Bundle,
    calibration_for: Callable[..., Calibration],
) -> AsyncIterator[Started]:
    strict, torn = (module_files.with_name(f"{n}.safetensors") for n in ("strict", "torn"))
    tiny_bundle.save(strict)
    calibration_for(tiny_bundle, threshold=0.0).save(beside(strict))
    torn.write_bytes(module_files.read_bytes()[:-100])  # noqa: ASYNC240
    beside(torn).write_bytes(beside(module_files).read_bytes())
    paths = (module_files, strict, module_files, module_files, torn)
    started = await asyncio.gather(
        *(WorkerHandle.start(ring, load(path)) for path in paths), return_exceptions=True
    )
    yield Started(*started)  # type: ignore[arg-type]
    for worker in started:
        if isinstance(worker, WorkerHandle):
            await worker.end()


def write(ring: Ring, frame: FrameFormat, count: int, seed: int = 0) -> list[np.ndarray]:
    frames = np.random.default_rng(seed).integers(30, 220, (count, *frame.shape), np.uint8)
    for slot, pixels in zip(ring.slots[:count], frames, strict=True):
        ring.pixels(slot.pixels, frame)[:] = pixels
    return list(frames)


def request(ring: Ring, frame: FrameFormat, count: int, batch: int = 1) -> Score:
    refs = tuple(FrameRef(slot.pixels, slot.heat, frame, None) for slot in ring.slots[:count])
    return Score(batch, "default", refs)


async def answers(worker: WorkerHandle, *requests: Score) -> Sequence[FromWorker]:
    heard: asyncio.Queue[FromWorker] = asyncio.Queue()
    worker.receive = heard.put_nowait
    for wanted in requests:
        worker.send(wanted)
    async with asyncio.timeout(30):
        return [await heard.get() for _ in requests]


async def test_a_worker_that_is_ready_says_on_what(workers: Started) -> None:
    assert workers.plain.device == "cpu"
    assert workers.plain.pid != os.getpid()


async def test_it_scores_as_the_engine_in_this_process(
    workers: Started, ring: Ring, tiny_bundle: Bundle
) -> None:
    frames = write(ring, FORMAT, 3)
    (answer,) = await answers(workers.plain, request(ring, FORMAT, 3, batch=41))
    expected = Engine(tiny_bundle, "cpu").score(frames)
    assert isinstance(answer, Scored)
    assert answer.batch == 41
    assert [r.score for r in answer.results] == pytest.approx([e.score for e in expected], rel=1e-5)
    assert all(r.judgement is Judgement.OK and r.regions == () for r in answer.results)


async def test_a_defects_heat_map_stands_in_its_slot(workers: Started, ring: Ring) -> None:
    write(ring, FORMAT, 2)
    heats = [ring.heat(slot.heat, FORMAT.height, FORMAT.width) for slot in ring.slots[:3]]
    for heat in heats:
        heat[:] = 0
    (answer,) = await answers(workers.strict, request(ring, FORMAT, 2))
    assert isinstance(answer, Scored)
    assert all(r.judgement is Judgement.DEFECT and r.regions for r in answer.results)
    assert heats[0].any()
    assert heats[1].any()
    assert not heats[2].any()


async def test_colour_frames_are_scored_by_a_gray_model(workers: Started, ring: Ring) -> None:
    write(ring, COLOUR, 2)
    (answer,) = await answers(workers.plain, request(ring, COLOUR, 2))
    assert isinstance(answer, Scored)


async def test_frames_that_no_model_can_score_are_refused_and_work_goes_on(
    workers: Started, ring: Ring
) -> None:
    write(ring, FORMAT, 2)
    refused, scored = await answers(
        workers.plain, request(ring, SMALL, 2, batch=7), request(ring, FORMAT, 2, batch=8)
    )
    assert isinstance(refused, Refused)
    assert refused.batch == 7
    assert "\n" not in refused.problem
    assert isinstance(scored, Scored)
    assert scored.batch == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_all_of_the_service_leaves_the_worker_to_the_daemon(
    workers: Started, number: int
) -> None:
    """Ctrl-C goes to the whole group; systemd (KillMode=control-group) sends SIGTERM to all."""
    status = Path(f"/proc/{workers.plain.pid}/status").read_text().splitlines()  # noqa: ASYNC240
    masks = (int(line.split()[1], 16) for line in status if line.startswith(("SigIgn", "SigCgt")))
    assert any(mask >> (number - 1) & 1 for mask in masks)


async def test_a_worker_that_works_is_alive_however_long_it_takes(
    workers: Started, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beat comes from a thread of its own, also while torch computes."""
    write(ring, FORMAT, 4)
    wanted = [request(ring, FORMAT, 4, batch=n) for n in range(40)]
    heard = await answers(workers.plain, *wanted)
    assert len(heard) == 40
    assert not workers.plain.gone.is_set()
    assert workers.plain.silent_beats < SILENT_BEATS


async def test_after_kill_9_it_is_gone_and_was_waited_for(workers: Started) -> None:
    worker = workers.plain
    heard: list[FromWorker] = []
    worker.receive = heard.append
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        await worker.gone.wait()
    assert heard == []
    assert not Path(f"/proc/{worker.pid}").exists()  # noqa: ASYNC240
    with pytest.raises(OSError, match="Bad file descriptor"):
        worker.send(Score(1, "default", ()))


async def test_a_bad_bundle_is_a_worker_error_with_the_bundles_own_words(
    workers: Started,
) -> None:
    assert isinstance(workers.torn, WorkerError)
    assert "torn.safetensors" in str(workers.torn)
    assert "is truncated or no bundle at all" in str(workers.torn)
    assert "\n" not in str(workers.torn)


async def test_a_bundle_that_was_replaced_since_the_daemon_read_it_is_refused(
    ring: Ring, module_files: Path
) -> None:
    """Events and pictures would name another model than the one that judges."""
    with pytest.raises(WorkerError, match=r"safetensors: sha256 = .* was replaced while the line"):
        await WorkerHandle.start(ring, load(module_files, bundle_hash="0" * 64))


async def test_a_cancelled_start_leaves_no_process_behind(
    ring: Ring,
    module_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., Any],
) -> None:
    monkeypatch.setattr("daemon.worker.handle.END_SECONDS", 0.05)
    before = children()
    starting = asyncio.create_task(WorkerHandle.start(ring, load(module_files)))
    await until(lambda: bool(children() - before))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert children() == before


async def test_a_worker_ends_by_itself_when_the_daemons_end_closes(workers: Started) -> None:
    """A killed daemon closes its end as the kernel does: no signal, no word."""
    await workers.strict.end()
    assert workers.strict._process.returncode == 0


async def test_a_worker_that_was_stopped_is_killed_and_waited_for(workers: Started) -> None:
    os.kill(workers.third.pid, signal.SIGSTOP)
    async with asyncio.timeout(SILENT_BEATS * BEAT_SECONDS + 5):
        await workers.third.gone.wait()
    assert workers.third._process.returncode == -signal.SIGKILL


async def test_a_worker_without_memory_ends_and_says_why(
    workers: Started, ring: Ring, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under a limit of its own: what is left in an engine that lost an allocation is not known."""
    worker = workers.fourth
    used = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0]) * PAGE  # noqa: ASYNC240
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (used, used))
    worker.send(request(ring, BIG, 1))
    async with asyncio.timeout(20):
        await worker.gone.wait()
    assert worker._process.returncode == 1
    said = capfd.readouterr()
    assert "worker failed" in said.out + said.err
    assert "memory" in (said.out + said.err).lower()


def children() -> set[str]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(path.read_text().split())
