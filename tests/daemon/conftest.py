"""What the daemon's tests share: exposures, frames and results as plain as they can be."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from adapters.ports import Event, Exposure, Frame, FrameFormat, FrameId
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

GRAY = FrameFormat(64, 64, 1, "uint8")


@pytest.fixture(autouse=True)
def _log_as_it_comes() -> Iterator[None]:
    """No test changes how another one logs."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def exposure() -> Callable[..., Exposure]:
    def make(
        sequence: int = 0,
        camera: str = "left",
        epoch: int = 1,
        within_s: float = 60.0,
        part: int = 0,
    ) -> Exposure:
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + int(within_s * 1e9)
        frame = FrameId("line", camera, epoch, sequence)
        return Exposure(frame, now_ns, time.time_ns(), deadline_ns, part)

    return make


@pytest.fixture(scope="session")
def frame(exposure: Callable[..., Exposure]) -> Callable[..., Frame]:
    def make(sequence: int = 0, slot: int = 0, shape: FrameFormat = GRAY, **more: object) -> Frame:
        return Frame(exposure(sequence, **more), shape, slot)

    return make


@pytest.fixture(scope="session")
def result() -> Callable[..., Result]:
    def make(
        judgement: Judgement = Judgement.OK, score: float = 0.2, threshold: float = 0.5
    ) -> Result:
        regions = (Region(8, 12, 6, 4, 20, score),) if judgement is Judgement.DEFECT else ()
        return Result(score, threshold, judgement, regions)

    return make


@pytest.fixture(scope="session")
def event() -> Callable[..., Event]:
    def make(number: int = 0, filling: int = 0) -> Event:
        data = {"number": number, "filling": "x" * filling}
        return Event(f"line/left/1/{number}", "clearline.defect.v1", "/site/line/left", "left",
                     "line/left", 1_785_312_000_000_000_000, data)  # fmt: skip

    return make


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """Waits for what only the world can tell, looked at after every turn of the event loop."""

    async def wait(true: Callable[[], bool], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - the one place that looks again and again
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture(scope="module")
def module_files(
    tiny_bundle: object,
    calibration_for: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """`tiny_files`, made once for all tests of a file."""
    from model.calibration import beside

    path = tmp_path_factory.mktemp("bundle") / "tiny.safetensors"
    tiny_bundle.save(path)  # type: ignore[attr-defined]
    calibration_for(tiny_bundle).save(beside(path))  # type: ignore[attr-defined]
    return path
