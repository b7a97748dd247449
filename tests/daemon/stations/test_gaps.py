"""INGEST and a camera's own frame numbers: what is missing is counted, to the frame."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from plant.ingest import Line, breaks, shows

from adapters.errors import SourceError
from adapters.ports import Exposure, FrameId, Intake, Reason, Shot
from adapters.sources.frame_numbers import Unwrapped
from daemon.records.ledger import Ledger
from daemon.stations.ingest import GAP_TOLD, LONGEST_GAP

Until = Callable[..., object]


async def test_numbers_that_are_missing_are_frames_each_with_its_verdict(line: Line) -> None:
    seen: list[Exposure] = []
    unseen = line.desk.unseen
    line.desk.unseen = lambda e, r: (seen.append(e), unseen(e, r))[1]  # type: ignore[method-assign,func-returns-value]
    await line.show(shows(3, 6, 7))
    assert line.desk.told == [
        ("up", 1), ("frame", 1, 3), (Reason.CAMERA_GAP, 1, 4), (Reason.CAMERA_GAP, 1, 5),
        ("frame", 1, 6), ("frame", 1, 7),
    ]  # fmt: skip
    assert line.account.counts().received == 5
    assert [(e.exposed_ns, e.part) for e in seen] == [(1004, 5), (1005, 6)]


async def test_the_part_of_a_missing_frame_is_only_said_where_it_is_known(line: Line) -> None:
    """Several frames a part, or a trigger count that did not move as the frames did."""
    seen: list[Exposure] = []
    line.desk.unseen = lambda exposure, _: seen.append(exposure)  # type: ignore[method-assign]

    def script(intake: Intake, _: threading.Event) -> None:
        for sequence, part in ((0, 7), (2, 7), (4, 8), (6, 0)):
            intake.unseen(Shot(sequence, sequence, part=part), Reason.CORRUPT)

    await line.show(script)
    gaps = [e for e in seen if e.id.sequence % 2]
    assert [e.part for e in gaps] == [0, 0, 0]


async def test_a_long_gap_is_counted_to_the_frame_and_told_in_one_go(line: Line) -> None:
    far = 10 + GAP_TOLD + 2
    await line.show(shows(10, far))
    assert line.desk.told[1:] == [
        ("frame", 1, 10), ("missed", Reason.CAMERA_GAP, 11, far - 1), ("frame", 1, far)
    ]  # fmt: skip
    counts = line.account.counts()
    assert counts.received == 2 + GAP_TOLD + 1
    assert counts.uninspected == {Reason.CAMERA_GAP: GAP_TOLD + 1}
    assert counts.in_flight == 2  # nobody decides here


async def test_a_camera_that_counts_on_has_its_frames_between_connections_counted(
    line: Line,
) -> None:
    line.counts_on = True
    await line.show(breaks(5, error=SourceError("no longer answers")), shows(9, 10))
    assert ("missed", Reason.CAMERA_GAP, 6, 8) in line.desk.told
    assert line.account.counts().received == 6


async def test_what_a_killed_daemon_did_not_get_is_counted_by_the_next_one(
    line: Line, tmp_path: Path
) -> None:
    """The ledger remembers the last number, not the process."""
    before = Ledger(tmp_path / "ledger")
    before.account("left").receive(FrameId("line", "left", before.next_epoch(), 41))
    line.counts_on = True
    await line.show(shows(45))
    assert line.desk.told == [
        ("missed", Reason.CAMERA_GAP, 42, 44), ("up", 2), ("frame", 2, 45)
    ]  # fmt: skip


async def test_a_camera_that_counts_anew_with_each_connection_misses_nothing_by_it(
    line: Line,
) -> None:
    await line.show(breaks(0, error=SourceError("no longer answers")), shows(9))
    assert line.desk.kinds() == ["up", "frame", "down", "up", "frame"]


async def test_a_first_frame_ever_follows_no_other(line: Line) -> None:
    line.counts_on = True
    await line.show(shows(1000))
    assert line.account.counts().received == 1


async def test_a_number_from_another_count_is_no_gap(line: Line) -> None:
    """A header that lies, or another camera in its place: not ten million lost frames."""
    await line.show(shows(0, LONGEST_GAP + 2))
    assert line.account.counts().received == 2


async def test_sixteen_bit_numbers_wrap_from_65535_to_1_without_a_gap(line: Line) -> None:
    numbers = Unwrapped()
    await line.show(shows(*(numbers.number(i) for i in (65534, 65535, 1, 2, 4))))
    assert line.desk.kinds() == [*["up"], *["frame"] * 4, Reason.CAMERA_GAP, "frame"]
    assert line.account.counts().received == 6


async def test_a_frame_says_how_much_it_differs_from_the_one_before_also_over_connections(
    line: Line,
) -> None:
    await line.show(breaks(3, 5, error=SourceError("no longer answers")), shows(5, 6))
    assert [frame.change for frame in line.desk.frames] == [None, 2.0, 0.0, 1.0]


@pytest.mark.parametrize("again", [1001, 1000])
async def test_a_message_that_comes_twice_or_out_of_turn_is_no_history_of_lost_frames(
    line: Line, again: int
) -> None:
    line.counts_on = True
    await line.show(shows(1000, 1001, again, 1002))
    counts = line.account.counts()
    assert counts.received == 4 + (1002 - again - 1)


async def test_a_camera_whose_clock_runs_back_has_deadlines_in_order(line: Line) -> None:
    """Verdicts are told in order: a later frame's must not be due before."""

    def script(intake: Intake, _: threading.Event) -> None:
        for sequence, exposed_ns in ((0, 5000), (1, 4000), (2, 6000)):
            intake.unseen(Shot(sequence, exposed_ns), Reason.CORRUPT)

    seen: list[Exposure] = []
    line.desk.unseen = lambda exposure, _: seen.append(exposure)  # type: ignore[method-assign]
    await line.show(script)
    assert [e.exposed_ns for e in seen] == [5000, 5000, 6000]


async def test_a_camera_that_has_ended_shows_nothing(line: Line) -> None:
    await line.show(shows(0))
    assert not line.ingest.up


async def test_a_message_that_comes_twice_early_in_a_count_is_no_new_count(line: Line) -> None:
    line.counts_on = True
    await line.show(shows(500, 501, 501, 502))
    assert line.account.counts().received == 4


async def test_a_sender_that_began_anew_is_counted_from_its_0(line: Line) -> None:
    line.counts_on = True
    await line.show(shows(500, 3))
    assert line.account.counts().received == 2 + 3
