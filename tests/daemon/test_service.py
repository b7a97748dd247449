"""The whole line: every frame is accounted for, whatever ends, and whoever is killed.

Workers are slow to come up (torch), so that two lines run at once here: one in this process, whose
worker is killed, and one in processes of its own, which is killed itself, started again and ended.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.image_files import write_image
from adapters.ports import Outcome, Reason, Verdict
from daemon import config, wiring
from daemon.records.ledger import Counts, Ledger
from daemon.service import serve

pytestmark = pytest.mark.slow

PATIENCE = 20.0
LINE = """
line = "line3"
state_dir = "{folder}/state"
drain_seconds = 20
[recipes.default]
bundle = "{bundle}"
[worker]
device = "cpu"
[log]
format = "json"
"""
CAMERA = """
[cameras.{name}]
url = "{url}"
deadline_ms = {deadline_ms}
max_fps = 40
max_frame_bytes = 16384
"""


@dataclass
class Story:
    """What became of the line that was killed, started again and ended."""

    torch_in_daemon: bool = True
    torch_in_worker: bool = False
    worker_ended: bool = False
    killed: Counts | None = None
    unrecorded: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    ended: Counts | None = None
    log: str = ""
    kinds: list[str] = field(default_factory=list)


def write_config(folder: Path, bundle: Path, **cameras: tuple[str, int]) -> Path:
    text = LINE.format(folder=folder, bundle=bundle)
    for name, (url, deadline_ms) in cameras.items():
        text += CAMERA.format(name=name, url=url, deadline_ms=deadline_ms)
    path = folder / "line.toml"
    path.write_text(text)
    return path


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "state/events.jsonl").read_text().splitlines()]


def counts(folder: Path, camera: str) -> Counts:
    return Ledger(folder / "state/ledger").account(camera).counts()


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def run(path: Path) -> "subprocess.Popen[str]":
    """Until its log says that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon.cli", "run", str(path)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["event"] == "started":
            return process
    raise AssertionError("ended before it started")


def maps_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def tell(folder: Path, bundle: Path) -> Story:
    story = Story()
    path = write_config(
        folder, bundle, left=("simulated:grain?width=64&height=64&fps=40&defect_rate=0", 15_000)
    )
    first = run(path)
    worker = min(children(first.pid))  # another one may be on its way to stand by
    story.torch_in_daemon, story.torch_in_worker = maps_torch(first.pid), maps_torch(worker)
    wait_for(lambda: counts(folder, "left").ok > 0)
    os.kill(worker, signal.SIGSTOP)  # so that frames are in flight, and stay it
    wait_for(lambda: counts(folder, "left").in_flight >= 5)
    first.kill()
    first.wait()
    first.stderr.close()  # type: ignore[union-attr]
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not Path(f"/proc/{worker}").exists())
        story.worker_ended = True
    story.killed = counts(folder, "left")

    second = run(path)
    wait_for(lambda: counts(folder, "left").ok > story.killed.ok)  # type: ignore[union-attr]
    os.kill(second.pid, signal.SIGTERM)
    _, story.log = second.communicate(timeout=PATIENCE)
    story.exit_code = second.returncode
    story.ended = counts(folder, "left")
    data = [event["data"] for event in told(folder)]
    story.unrecorded = [d for d in data if d.get("kind") == "unrecorded"]
    story.kinds = [d["kind"] for d in data if "run" in d]
    return story


@pytest.fixture(scope="module", autouse=True)
def story(
    module_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Future[Story]"]:
    future: Future[Story] = Future()

    def work() -> None:
        try:
            future.set_result(tell(tmp_path_factory.mktemp("killed"), module_files))
        except BaseException as error:  # noqa: BLE001 - told to whoever asks
            future.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield future
    thread.join()


class Gate:
    """Who is told every verdict."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def tell(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    def of(self, camera: str) -> list[Verdict]:
        return [v for v in self.verdicts if v.exposure.id.camera == camera]

    def oks(self, camera: str) -> int:
        return sum(v.outcome is Outcome.OK for v in self.of(camera))


async def test_a_killed_worker_costs_frames_but_neither_the_line_nor_the_balance(
    module_files: Path, tmp_path: Path, until: Callable[..., Any]
) -> None:
    for k in range(12):
        write_image(tmp_path / "lot" / f"{k:02}.png", np.full((70, 96, 1), 90 + k, np.uint8))
    (tmp_path / "lot/05.png").write_bytes(b"broken")
    (tmp_path / "nowhere").mkdir()  # a folder that nobody has filled yet
    path = write_config(
        tmp_path,
        module_files,
        live=("simulated:woven?width=64&height=80&fps=25&defect_rate=0", 3000),
        lot=("replay:lot", 30_000),
        gone=("replay:nowhere", 1000),
    )
    gate = Gate()
    service = wiring.build(config.load(path), tmp_path, (gate,))
    serving = asyncio.create_task(serve(service))
    await until(lambda: gate.oks("live") >= 10 or serving.done(), PATIENCE)
    await until(lambda: len(gate.of("lot")) == 12 or serving.done(), PATIENCE)
    first = service.parts.score.worker
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: any(v.reason is Reason.WORKER_RESTART for v in gate.of("live")), PATIENCE)
    seen = gate.oks("live")
    await until(lambda: gate.oks("live") > seen or serving.done(), PATIENCE)
    assert not serving.done()
    assert service.parts.score.restarts == 1
    service.request_stop()
    async with asyncio.timeout(PATIENCE):
        await serving

    accounts = {account.camera: account.counts() for account in service.parts.ledger.accounts()}
    for camera, count in accounts.items():
        said = Counter(v.reason or v.outcome for v in gate.of(camera))
        assert count.in_flight == 0
        assert count.received == len(gate.of(camera))
        assert (count.ok, count.defect) == (said[Outcome.OK], said[Outcome.DEFECT])
        assert count.uninspected == {r: said[r] for r in Reason if said[r]}
        sequences = [v.exposure.id.sequence for v in gate.of(camera)]
        assert sequences == list(range(len(sequences)))
    assert accounts["live"].uninspected[Reason.WORKER_RESTART] > 0
    assert accounts["lot"].uninspected == {Reason.CORRUPT: 1}
    assert accounts["lot"].ok == 11
    assert accounts["gone"].received == 0

    data = [event["data"] for event in told(tmp_path)]
    missed: Counter[tuple[str, str]] = Counter()
    for said in data:
        if said.get("kind") == "uninspected":
            missed[said["camera"], said["reason"]] += said["count"]
    assert missed == {
        (camera, reason.value): number
        for camera, count in accounts.items()
        for reason, number in count.uninspected.items()
    }
    assert any(d.get("kind") == "down" and d["camera"] == "gone" for d in data)
    assert data[-1]["kind"] == "stopped"
    assert data[-1]["cameras"]["live"]["ok"] == accounts["live"].ok
    assert len({event["id"] for event in told(tmp_path)}) == len(data)


def test_the_daemons_own_process_never_maps_torch(story: "Future[Story]") -> None:
    told = story.result(2 * PATIENCE)
    assert told.torch_in_worker
    assert not told.torch_in_daemon


def test_a_killed_daemons_worker_ends_by_itself(story: "Future[Story]") -> None:
    assert story.result(2 * PATIENCE).worker_ended


def test_what_a_kill_kept_from_being_decided_is_announced_with_its_count(
    story: "Future[Story]",
) -> None:
    told = story.result(2 * PATIENCE)
    assert told.killed is not None
    assert told.killed.in_flight >= 5
    (said,) = told.unrecorded
    assert (said["camera"], said["reason"]) == ("left", "daemon_restart")
    assert said["count"] == told.killed.in_flight
    assert said["last_sequence"] - said["after_sequence"] == told.killed.in_flight
    assert said["last_epoch"] == said["after_epoch"]


def test_a_term_signal_drains_and_ends_with_0(story: "Future[Story]") -> None:
    told = story.result(2 * PATIENCE)
    assert told.exit_code == 0, told.log
    assert "Traceback" not in told.log
    assert json.loads(told.log.splitlines()[-1])["event"] == "stopped"
    assert json.loads(told.log.splitlines()[-1])["events_left"] == 0
    assert told.kinds == ["started", "unrecorded", "started", "stopped"]


def test_over_kill_restart_and_end_every_frame_is_accounted_for(story: "Future[Story]") -> None:
    told = story.result(2 * PATIENCE)
    assert told.ended is not None
    assert told.killed is not None
    assert told.ended.in_flight == 0
    assert told.ended.uninspected[Reason.DAEMON_RESTART] == told.killed.in_flight
    total = told.ended.ok + told.ended.defect + sum(told.ended.uninspected.values())
    assert told.ended.received == total
    assert told.ended.received > told.killed.received
