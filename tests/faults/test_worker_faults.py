"""Whatever ends a worker costs exactly what it had in its hands, and service goes on at once.

One line in this process, with real workers; a camera of the test's own sends it frames over ZeroMQ.
"""

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from plant.daemon_process import memory
from plant.line_here import LineHere
from plant.mqtt import until
from plant.poisonable_worker import ABORTS, RAISES, poisoned

from adapters.image_files import read_image
from adapters.ports import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

AGAIN_S = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(
    tiny_bundle: object, calibration_for: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[LineHere]:  # fmt: skip
    from model.calibration import beside

    folder = tmp_path_factory.mktemp("line")
    bundle = folder / "tiny.safetensors"
    tiny_bundle.save(bundle)  # type: ignore[attr-defined]
    calibration_for(tiny_bundle).save(beside(bundle))  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.worker.handle.PROGRAM", "plant.poisonable_worker")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        async with LineHere(folder, f'[recipes.default]\nbundle = "{bundle}"') as line:
            yield line


def without_memory(pid: int) -> None:
    """The next large allocation fails, as where another process took it all."""
    used = memory(pid, "VmSize")
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))


FAULTS = {
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "SIGSTOP": lambda pid: os.kill(pid, signal.SIGSTOP),
    "out of memory": without_memory,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_the_frames_in_hand_and_service_goes_on_within_two_seconds(
    line: LineHere, fault: str
) -> None:
    await line.stands_by()
    await until(lambda: bool(line.in_hand()))
    worker, before, began_ns = line.worker, line.restarted(), time.monotonic_ns()
    FAULTS[fault](worker)
    if fault == "out of memory":  # a frame that needs more than is there
        line.show(line._dice.integers(30, 220, (1024, 1024, 1), np.uint8))
    held: set[int] = set()
    while line.service.parts.score.worker is None or line.worker == worker:
        held |= line.in_hand()
        await asyncio.sleep(0)
    took_s = await line.judged_after(began_ns)
    lost = line.restarted() - before
    print(f"\n{fault}: {len(lost)} frames, judged again {took_s:.3f} s after")
    assert took_s < AGAIN_S
    assert lost <= held
    at_gate = line.judged()
    print(at_gate)
    assert at_gate.without_ok == ()
    assert at_gate.passed > 0
    others = {v.outcome for n, v in line.verdicts.items() if n not in line.restarted()}
    assert others == {Outcome.OK}


@pytest.mark.parametrize(("end", "how"), [(RAISES, "exception"), (ABORTS, "abort")])
async def test_a_frame_that_kills_the_worker_twice_is_set_aside_and_the_line_goes_on(
    line: LineHere, end: int, how: str
) -> None:
    await line.stands_by()
    restarts = line.service.parts.score.restarts
    before, began_ns = line.restarted(), time.monotonic_ns()
    pixels = poisoned(line.picture(), end)
    number = line.show(pixels)
    first_s = await line.judged_after(began_ns)
    assert number in line.restarted() - before
    aside = line.folder / "state/aside"
    name = f"left-{line.verdicts[number].exposure.id.epoch}-{number:08d}.png"
    await until((aside / name).exists, 60)
    assert np.array_equal(read_image(aside / name), pixels)
    assert line.service.parts.score.restarts == restarts + 2
    second_s = await line.judged_after(time.monotonic_ns())
    print(f"\n{how}: judged again {first_s:.3f} s after, and {second_s:.3f} s after its second try")
    assert max(first_s, second_s) < AGAIN_S
    await line.stands_by()
    await line.judged_after(time.monotonic_ns())
    assert line.service.parts.score.restarts == restarts + 2, "no third worker saw it"

    def said() -> list[dict[str, object]]:
        lines = (line.folder / "state/events.jsonl").read_text().splitlines()
        return [d for d in (json.loads(text)["data"] for text in lines) if d["kind"] == "set_aside"]

    await until(lambda: any(d["sequence"] == number for d in said()))
