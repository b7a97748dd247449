"""INGEST with a scripted camera: counted before handed on, contained when it fails, and back."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from plant.ingest import FORMAT, LARGE, SLOTS, Line, breaks, show, shows

from adapters.errors import SourceError
from adapters.ports import Exposure, Intake, Reason, Shot
from daemon.records.ledger import Ledger
from daemon.supervise import Backoff

Until = Callable[..., object]


async def test_frames_come_to_the_desk_in_order_on_the_loop_with_all_that_is_known(
    line: Line,
) -> None:
    await line.show(shows(3, 4))
    assert line.desk.told == [("up", 1), ("frame", 1, 3), ("frame", 1, 4)]
    assert line.desk.thread == threading.get_ident()
    frame = line.desk.frames[1]
    assert str(frame.exposure.id) == "line/left/1/4"
    assert (frame.exposure.exposed_ns, frame.exposure.deadline_ns) == (1004, 50_001_004)
    assert (frame.exposure.part, frame.format) == (5, FORMAT)
    place = line.ring.slots[frame.slot]
    assert (line.ring.pixels(place.pixels, FORMAT) == 4).all()


async def test_the_wall_time_is_that_of_the_exposure(line: Line) -> None:
    import time

    long_ago_ns = time.monotonic_ns() - 3_000_000_000
    wall_ns = time.time_ns()

    def script(intake: Intake, _: threading.Event) -> None:
        intake.unseen(Shot(0, long_ago_ns), Reason.CAMERA_GAP)

    seen: list[Exposure] = []
    line.desk.unseen = lambda exposure, _: seen.append(exposure)  # type: ignore[method-assign]
    await line.show(script)
    assert abs(seen[0].wall_ns - (wall_ns - 3_000_000_000)) < 1_000_000_000


async def test_an_exposure_is_counted_before_it_is_handed_on(line: Line) -> None:
    counted: list[int] = []

    def script(intake: Intake, _: threading.Event) -> None:
        call = line.ingest._on_loop
        line.ingest._on_loop = lambda *said: (
            counted.append(line.account.counts().received),
            call(*said),
        )  # type: ignore[method-assign,assignment,return-value]
        show(intake, 0)
        intake.unseen(Shot(1, 0), Reason.CORRUPT)
        line.ingest._on_loop = call  # type: ignore[method-assign]

    await line.show(script)
    assert counted == [1, 1, 2]  # the camera's up, then each exposure
    assert line.account.counts().received == 2


async def test_every_connection_is_an_epoch_of_its_own_over_restarts(
    line: Line, tmp_path: Path
) -> None:
    lost = SourceError("no longer answers")
    await line.show(breaks(0, 1, error=lost), breaks(0, error=lost), shows(0))
    assert [said[1] for said in line.desk.told if said[0] == "frame"] == [1, 1, 2, 3]
    assert Ledger(tmp_path / "ledger").next_epoch() == 4


async def test_a_camera_that_fails_is_told_down_and_comes_back(line: Line) -> None:
    await line.show(breaks(0, error=SourceError("no longer answers")), shows(0))
    assert line.desk.told == [
        ("up", 1), ("frame", 1, 0), ("down", 1, "no longer answers"), ("up", 2), ("frame", 2, 0),
    ]  # fmt: skip


async def test_a_camera_that_cannot_be_opened_is_never_up(line: Line) -> None:
    await line.show(*[breaks(error=SourceError("is not there"))] * 3, shows(0))
    assert line.desk.kinds() == ["down", "up", "frame"], "down is said once, not at every try"


async def test_a_number_that_comes_again_begins_a_new_epoch(line: Line) -> None:
    """Two frames of one name would share a verdict."""
    await line.show(shows(5, 5, 6))
    assert line.desk.told == [
        ("up", 1), ("frame", 1, 5), ("up", 2), ("frame", 2, 5), ("frame", 2, 6)
    ]  # fmt: skip
    assert line.account.counts().received == 3


async def test_pauses_grow_until_the_camera_showed_something(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []

    class Counted(Backoff):
        def next(self) -> float:
            said.append("pause")
            return 0.0

        def reset(self) -> None:
            said.append("reset")

    monkeypatch.setattr("daemon.stations.ingest.Backoff", Counted)
    gone = SourceError("is not there")
    await line.show(breaks(error=gone), breaks(error=gone), breaks(0, error=gone), shows(0))
    assert said == ["pause", "pause", "reset", "pause"]


async def test_what_nobody_foresaw_is_contained_as_any_other_failure(line: Line) -> None:
    await line.show(breaks(0, error=ZeroDivisionError("by zero")), shows(0))
    assert line.desk.kinds() == ["up", "frame", "down", "up", "frame"]
    assert "ZeroDivisionError" in str(line.desk.told[2][2])


async def test_a_camera_that_cannot_even_be_made_is_contained(line: Line, until: Until) -> None:
    # The first connection finds no script: IndexError.
    line.ingest.start()
    await until(lambda: "down" in line.desk.kinds())
    line.scripts.append(shows(0))
    await line.ingest.done.wait()
    assert line.desk.kinds()[-2:] == ["up", "frame"]


async def test_a_frame_that_is_too_large_names_the_key_to_change_and_takes_no_slot(
    line: Line,
) -> None:
    await line.show(lambda intake, _: intake.lend(LARGE, wait=True), shows(0))  # type: ignore[arg-type,return-value]
    assert line.desk.kinds() == ["down", "up", "frame"]
    problem = str(line.desk.told[0][2])
    assert "cameras.left.max_frame_bytes = 4096 is larger than the camera's slots" in problem
    assert f"expected at least {LARGE.nbytes} for 100x128" in problem
    assert line.quota.held == 0


async def test_a_live_camera_gets_no_slot_while_all_are_held(line: Line) -> None:
    lent: list[object] = []
    line.desk.frame = lambda frame: None  # type: ignore[method-assign]

    def script(intake: Intake, _: threading.Event) -> None:
        show(intake, *range(SLOTS))
        lent.append(intake.lend(FORMAT, wait=False))

    await line.show(script)
    assert lent == [None]
    assert line.quota.held == SLOTS


async def test_stop_ends_a_camera_that_waits_for_a_slot(line: Line, until: Until) -> None:
    lent: list[object] = []
    waiting = threading.Event()
    line.desk.frame = lambda frame: None  # type: ignore[method-assign]

    def script(intake: Intake, _: threading.Event) -> None:
        show(intake, *range(SLOTS))
        waiting.set()
        lent.append(intake.lend(FORMAT, wait=True))

    line.scripts.append(script)
    line.ingest.start()
    await until(lambda: bool(waiting.is_set()))
    line.ingest.stop()
    async with asyncio.timeout(5):
        await line.ingest.done.wait()
    assert lent == [None]
    assert line.account.counts().received == SLOTS


async def test_what_is_exposed_while_the_line_stops_is_no_overload(
    line: Line, until: Until
) -> None:
    """A stop lends no slots any more: to a camera that looks as if all were in use."""
    stopped_line, exposed = threading.Event(), threading.Event()

    def script(intake: Intake, _: threading.Event) -> None:
        exposed.set()
        stopped_line.wait(5)
        assert intake.lend(FORMAT, wait=False) is None
        intake.unseen(Shot(0, 0), Reason.OVERLOAD)

    line.scripts.append(script)
    line.ingest.start()
    await until(exposed.is_set)
    line.ingest.stop()
    stopped_line.set()
    await line.ingest.done.wait()
    assert Reason.SHUTDOWN in line.desk.kinds()


async def test_stop_ends_a_camera_that_waits_for_its_next_exposure_and_makes_no_other(
    line: Line, until: Until
) -> None:
    line.scripts.append(lambda intake, stopped: (show(intake, 0), stopped.wait(10)))  # type: ignore[arg-type,return-value]
    line.ingest.start()
    await until(lambda: bool(line.desk.frames))
    line.ingest.stop()
    async with asyncio.timeout(5):
        await line.ingest.done.wait()
    assert line.desk.kinds() == ["up", "frame"]
    assert len(line.made) == 1


async def test_stop_during_a_pause_ends_it(
    line: Line, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr("daemon.stations.ingest.Backoff", lambda: Backoff(60.0, 60.0))
    line.scripts.append(breaks(error=SourceError("is not there")))
    line.ingest.start()
    await until(lambda: "down" in line.desk.kinds())
    line.ingest.stop()
    async with asyncio.timeout(5):
        await line.ingest.done.wait()
    assert len(line.made) == 1


async def test_done_comes_after_everything_the_camera_showed(line: Line) -> None:
    await line.show(shows(*range(200)))
    assert len(line.desk.frames) == 200
    assert line.account.counts().received == 200


async def test_a_slot_that_was_lent_and_never_filled_is_free_again_after_the_connection(
    line: Line,
) -> None:
    """A camera may fail between the two; else each failure costs a slot for ever."""

    def fails(intake: Intake, _: threading.Event) -> None:
        intake.lend(FORMAT, wait=False)
        raise SourceError("went away half-way through a frame")

    await line.show(*[fails] * SLOTS, lambda intake, _: None)
    assert line.quota.held == 0


async def test_buffers_that_are_shown_in_turn_are_repetitions_as_well(line: Line) -> None:
    def script(intake: Intake, _: threading.Event) -> None:
        for sequence, level in enumerate((10, 90, 10, 90)):
            lease = intake.lend(FORMAT, wait=True)
            assert lease is not None
            lease.pixels[:] = level
            intake.arrived(Shot(sequence, sequence), lease)

    await line.show(script)
    assert [frame.change for frame in line.desk.frames] == [None, 80.0, 0.0, 0.0]
