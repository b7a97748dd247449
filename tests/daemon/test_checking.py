"""`clearline check`: what a machine cannot give is refused with the numbers, before the line runs.

A worker takes seconds to start: one is started here and shared, but for the test that has its own.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.errors import SourceError
from adapters.image_files import write_image
from adapters.ports import FrameFormat, Intake, Reason, Shot
from daemon import checking, edges
from daemon.checking import Service, check_line
from daemon.config import Configuration
from daemon.errors import ConfigurationError, WorkerError
from daemon.records import state_dir
from daemon.worker.handle import WorkerHandle

Written = Callable[..., Path]
FORMAT = FrameFormat(64, 64, 1, "uint8")


@pytest.fixture
def written(module_files: Path, tmp_path: Path) -> Written:
    """A configuration of one recipe and such cameras: name to URL, deadline in ms, max_fps."""

    def write(**cameras: tuple[str, float, float]) -> Path:
        text = f'state_dir = "{tmp_path}/state"\n[recipes.default]\nbundle = "{module_files}"\n'
        text += '[worker]\ndevice = "cpu"\nbatch_frames = 2\n'
        for name, (url, deadline_ms, fps) in cameras.items():
            text += f'[cameras.{name}]\nurl = "{url}"\ndeadline_ms = {deadline_ms}\n'
            text += f"max_fps = {fps}\nmax_frame_bytes = 65536\n"
        path = tmp_path / "line.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(WorkerHandle, "start", start)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The machine as it was measured to be, without measuring it."""

    def set_to(**services: Service) -> None:
        async def services_of(*_: object) -> dict[str, Service]:
            return services

        monkeypatch.setattr(checking, "services", services_of)

    return set_to


WOVEN = "simulated:woven?width=64&height=64"


def refusal(path: Path, kind: type[Exception]) -> str:
    before = threading.active_count()
    with pytest.raises(kind) as refused:
        check_line(path)
    assert "\n" not in str(refused.value)
    assert threading.active_count() <= before + 1  # a camera's thread may still be ending
    state_dir.claim(path.parent / "state").close()  # given back
    return str(refused.value)


def test_what_all_cameras_ask_for_together_is_held_against_the_machine(
    written: Written, measured: Callable[..., None]
) -> None:
    measured(left=Service(9.0, 5.0, 8), right=Service(9.0, 2.5, 8))
    checked = check_line(written(left=(WOVEN, 200, 100), right=(WOVEN, 200, 200)))
    asked = "left 100 frames/s x 5.0 ms, right 200 frames/s x 2.5 ms"
    assert checked["load"] == f"100% ({asked})"
    path = written(left=(WOVEN, 200, 100), right=(WOVEN, 200, 240))
    said = refusal(path, ConfigurationError)
    for part in ("'110%' is more than this machine", "100 frames/s", "240 frames/s x 2.5 ms"):
        assert part in said


@pytest.mark.parametrize(
    ("deadline_ms", "ms"),
    [(200.0, 12.5), (199.0, 12.55), (30.0, 15.0), (29.0, 15.0), (1.0, 15.0)],
)
def test_a_batch_counts_only_as_large_as_there_is_time_for_two_of_it(
    deadline_ms: float, ms: float
) -> None:
    """15 ms alone and 100 ms for eight: what is cheap in large batches may be too late in them."""
    service = Service(alone=15.0, in_batch=12.5, batch=8)
    assert service.within(deadline_ms) == pytest.approx(ms, abs=0.01)


def test_a_machine_that_is_fast_only_in_batches_too_large_for_the_deadline_is_refused(
    written: Written, measured: Callable[..., None]
) -> None:
    measured(left=Service(100.0, 12.5, 8))
    assert check_line(written(left=(WOVEN, 200, 60)))["load"].startswith("75% ")
    said = refusal(written(left=(WOVEN, 150, 60)), ConfigurationError)
    assert "'600%' is more than this machine was measured to give" in said


def test_a_deadline_that_a_frame_alone_takes_is_refused_with_what_it_takes(
    written: Written, measured: Callable[..., None]
) -> None:
    measured(left=Service(49.9, 5.0, 8), right=Service(50.0, 5.0, 8))
    path = written(left=(WOVEN, 50, 10), right=(WOVEN, 50, 10))
    said = refusal(path, ConfigurationError)
    assert said.startswith("cameras.right.deadline_ms = 50.0 is less than this machine takes")
    assert said.endswith("expected over 50.0")


def test_a_camera_that_shows_nothing_is_named(
    written: Written, no_worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "PICTURE_SECONDS", 0.2)
    path = written(left=(WOVEN, 200, 10), dark=("zmq+tcp://127.0.0.1:9", 200, 10))
    assert refusal(path, SourceError).startswith("cameras.dark shows no picture, so that its load")


def test_a_camera_that_cannot_be_opened_is_named_with_its_reason(
    written: Written, no_worker: None, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    said = refusal(written(lot=("replay:empty", 200, 10)), SourceError)
    assert said.startswith("cameras.lot shows no picture: ")
    assert "empty" in said


class Blind:
    """Shows an exposure without its picture first."""

    counts_on = False

    def stream(self, intake: Intake) -> None:
        intake.unseen(Shot(0, 0), Reason.CORRUPT)
        lease = intake.lend(FORMAT, wait=True)
        assert lease is not None
        lease.pixels[:] = 7
        intake.arrived(Shot(1, 0), lease)

    def stop(self) -> None: ...


def test_an_exposure_without_a_picture_is_not_the_one_that_is_measured() -> None:
    assert (checking._picture(Blind(), "left") == 7).all()


def test_a_frame_that_finds_no_room_in_the_ring_is_refused_with_what_it_takes(
    written: Written, no_worker: None
) -> None:
    """The running line would turn every one of them away."""
    path = written(left=("simulated:woven?width=257&height=256", 200, 10))
    said = refusal(path, ConfigurationError)
    assert said.startswith("cameras.left.max_frame_bytes = 65536 is less than a frame")
    assert said.endswith("expected at least 65792")


def test_whether_sinks_would_take_events_is_said_and_refuses_nothing(
    written: Written, no_worker: None, tmp_path: Path
) -> None:
    """The line starts without them, and its events wait."""
    path = written(left=(WOVEN, 500, 10))
    with path.open("a") as file:
        file.write('[kafka]\nbootstrap = ["127.0.0.1:1"]\n[events]\njsonl = "events.jsonl"\n')
    state_dir.make(tmp_path / "state")
    with state_dir.claim(tmp_path / "state"):
        said = check_line(path)
    assert said["events to kafka"].startswith("would wait: '127.0.0.1:1' is not reached")
    assert said["events to jsonl"] == "ready"


def test_a_running_line_is_not_measured(written: Written, no_worker: None) -> None:
    path = written(left=(WOVEN, 200, 10_000), dark=("zmq+tcp://127.0.0.1:9", 1, 1))
    state_dir.make(path.parent / "state")
    with state_dir.claim(path.parent / "state"):
        checked = check_line(path)
    assert checked["load"] == "not measured: this line is running"
    assert "dark" in str(checked)


@pytest.mark.slow
def test_a_machine_that_is_measured_gives_what_it_can_and_no_more(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker for a line that fits, one that asks too much, and one that cannot wait so long."""
    monkeypatch.setattr(checking, "MEASURE_SECONDS", 0.2)
    fits = written(left=(WOVEN, 2000, 1), right=(WOVEN, 2000, 1))
    checked = check_line(fits)
    alone, in_batch = checked["ms_alone left"], checked["ms_per_frame left"]
    assert 0 < in_batch <= 2 * alone < 4000
    assert checked["load"].startswith(f"{(in_batch + checked['ms_per_frame right']) / 1000:.0%} (")

    taken = {name: Service(alone, in_batch, 8) for name in ("left", "right")}

    async def services(*_: Any) -> dict[str, Service]:
        return taken

    monkeypatch.setattr(checking, "services", services)
    said = refusal(written(left=(WOVEN, 200, 10_000), right=(WOVEN, 200, 1)), ConfigurationError)
    assert f"left 10000 frames/s x {in_batch:.1f} ms" in said
    said = refusal(written(left=(WOVEN, 0.001, 1), right=(WOVEN, 200, 1)), ConfigurationError)
    assert f"expected over {alone:.1f}" in said


@pytest.mark.slow
def test_frames_that_a_model_cannot_score_are_refused_by_camera_and_recipe(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MEASURE_SECONDS", 0.05)
    write_image(tmp_path / "lot/small.png", np.full((40, 200, 1), 90, np.uint8))
    said = refusal(written(left=(WOVEN, 2000, 1), lot=("replay:lot", 2000, 1)), ConfigurationError)
    assert said.startswith("cameras.lot shows frames that recipe default cannot judge: ")
    assert "'200x40' is smaller than a patch" in said


@pytest.mark.slow
async def test_a_worker_that_dies_while_it_is_measured_is_an_error_and_not_a_wait(
    written: Written, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(checking, "MEASURE_SECONDS", 60)
    settings: Configuration = checking.config.load(written(left=(WOVEN, 2000, 1)))
    workers: list[WorkerHandle] = []
    start = WorkerHandle.start

    async def watched(*given: Any) -> WorkerHandle:
        workers.append(await start(*given))
        return workers[0]

    monkeypatch.setattr(WorkerHandle, "start", watched)
    picture = checking._picture(edges.source(WOVEN, Path()), "left")
    measuring = asyncio.create_task(checking.services(settings, {"left": picture}))
    await until(lambda: workers)
    workers[0].kill()
    async with asyncio.timeout(20):
        with pytest.raises(WorkerError, match="ended while it scored frames of camera left"):
            await measuring
