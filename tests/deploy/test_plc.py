"""What the gate promises, one by one, on the twin of the function block; and its judge."""

from dataclasses import replace

import pytest
from plant.conveyor import Conveyor
from plant.messages import beat, verdict
from plant.plc import ERROR, LATE, NOT_OK, OK, OVERRUN, TEST, Gate, Settings

TWO = Settings(cameras=2, part_timeout_ms=300)
WRAP = 1 << 32
MS = 1_000_000


def armed(plc: Settings = TWO) -> Gate:
    """At 200 ms, by two beats."""
    gate = Gate(plc)
    gate.message(0, beat(1))
    gate.message(200, beat(2))
    return gate


def hears_ok(gate: Gate, now_ms: int, part: int, *, number: int = 1, epoch: int = 7) -> None:
    for n in range(1, gate.settings.cameras + 1):
        gate.message(now_ms, verdict(number, part, camera=n, epoch=epoch))


def test_a_part_that_every_camera_passed_in_time_passes() -> None:
    gate = armed()
    gate.trigger(210, 1)
    hears_ok(gate, 509, 1)
    assert gate.at_gate(510, 1)
    assert (gate.parts, gate.accepted, gate.last_msg_no) == (1, 1, (1, 1))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(verdict(2, 1, result=NOT_OK), id="NotOK"),
        pytest.param(verdict(2, 1, result=LATE), id="late"),
        pytest.param(verdict(2, 1, result=0), id="unknown result"),
        pytest.param(verdict(2, 1, bits=ERROR), id="Error"),
        pytest.param(verdict(2, 1, bits=TEST), id="Test"),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["before the ok", "after the ok"])
def test_a_reject_is_never_taken_back(said: bytes, first: bool) -> None:
    gate = armed(Settings(cameras=1))
    gate.trigger(210, 1)
    messages = [said, verdict(3, 1)] if first else [verdict(1, 1), said, verdict(3, 1)]
    for message in messages:
        gate.message(220, message)
    assert not gate.at_gate(300, 1)


def test_an_ok_after_the_part_s_time_is_a_reject() -> None:
    gate = armed()
    gate.trigger(210, 1)
    hears_ok(gate, 510, 1)
    assert not gate.at_gate(511, 1)
    assert (gate.rejected_silent, gate.rejected_defect) == (1, 0)


def test_one_silent_camera_of_two_rejects() -> None:
    gate = armed()
    gate.trigger(210, 1)
    gate.message(220, verdict(1, 1, camera=2))
    gate.message(230, verdict(2, 1, camera=2))
    assert not gate.at_gate(300, 1)
    assert gate.rejected_silent == 1


def test_a_part_of_two_frames_passes_once_each_camera_passed_both() -> None:
    gate = armed(replace(TWO, frames_per_part=2))
    gate.trigger(210, 1)
    hears_ok(gate, 220, 1, number=1)
    hears_ok(gate, 230, 1, number=2)
    assert gate.at_gate(300, 1)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(b"", id="lost"),
        pytest.param(verdict(1, 1, camera=2), id="the first again"),
        pytest.param(verdict(2, 2, camera=2), id="of the next part"),
        pytest.param(verdict(2, 1, camera=1), id="of the other camera"),
        pytest.param(verdict(2, 1, camera=2, bits=TEST), id="not clean"),
    ],
)
def test_without_the_ok_for_one_frame_of_one_camera_a_part_is_rejected(second: bytes) -> None:
    gate = armed(replace(TWO, frames_per_part=2))
    gate.trigger(210, 1)
    gate.trigger(215, 2)
    for message in (verdict(1, 1, camera=2), verdict(1, 1), verdict(2, 1), verdict(3, 1), second):
        gate.message(220, message)
    assert not gate.at_gate(300, 1)


def test_a_not_ok_of_one_frame_is_not_outvoted_by_the_others() -> None:
    gate = armed(Settings(frames_per_part=2))
    gate.trigger(210, 1)
    for number, result in enumerate((OK, NOT_OK, OK, OK), start=1):
        gate.message(220, verdict(number, 1, result=result))
    assert not gate.at_gate(300, 1)


def test_a_part_that_no_camera_saw_or_whose_number_is_not_one_part_s_is_rejected() -> None:
    gate = armed()
    hears_ok(gate, 210, 5)
    assert not gate.at_gate(220, 5)
    for number, part in ((2, 6), (3, 0)):
        gate.trigger(230, part)
        gate.trigger(231, part)
        hears_ok(gate, 240, part, number=number)
        assert not gate.at_gate(250, part)
        assert not gate.at_gate(251, part)


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_a_message_of_another_length_is_not_heard(length: int) -> None:
    gate = armed(Settings(cameras=1))
    gate.trigger(210, 1)
    gate.message(220, (verdict(9, 1) + b"\0")[:length])
    gate.message(799, (beat(3) + b"\0")[:length])
    assert gate.last_msg_no == (0,)
    assert not gate.armed(800)


def test_the_burst_after_a_freeze_does_not_open_the_gate() -> None:
    gate = armed()
    gate.trigger(210, 1)
    assert not gate.alarm(799)
    assert gate.alarm(800)
    gate.trigger(2000, 2)
    for k in range(3, 12):
        gate.message(2010, beat(k))
        hears_ok(gate, 2010, 1, number=k)
    hears_ok(gate, 2010, 2, number=12)
    assert not gate.at_gate(2011, 1)
    assert not gate.at_gate(2012, 2)
    gate.trigger(2020, 3)
    hears_ok(gate, 2030, 3, number=13)
    gate.message(2110, beat(12))
    assert gate.at_gate(2111, 3)


def test_a_beat_whose_counter_stands_still_does_not_keep_the_gate_alive() -> None:
    gate = armed()
    for now_ms in range(400, 1000, 200):
        gate.message(now_ms, beat(2))
    assert gate.armed(799)
    assert not gate.armed(800)


def test_a_new_epoch_rejects_what_is_under_way_and_an_older_one_is_not_heard() -> None:
    gate = armed()
    gate.trigger(210, 1)
    hears_ok(gate, 220, 1)
    gate.trigger(230, 2)
    gate.message(240, verdict(1, 2, epoch=8))
    gate.trigger(250, 3)
    hears_ok(gate, 260, 3, number=2, epoch=7)
    gate.message(261, verdict(2, 3, epoch=8))
    gate.message(262, verdict(3, 3, camera=2, epoch=7))
    assert [gate.at_gate(300, part) for part in (1, 2, 3)] == [False, False, True]


def test_a_verdict_of_an_older_epoch_alarms_until_it_is_acknowledged() -> None:
    gate = armed()
    for epoch in (7, 7, 8):
        gate.message(210, verdict(1, 1, epoch=epoch))
    gate.message(210, verdict(1, 1, camera=2, epoch=7))  # the other camera's newest
    assert not gate.alarm(220)
    gate.message(230, verdict(2, 1, epoch=7))
    assert gate.alarm(230)
    gate.acknowledge()
    assert not gate.alarm(230)


def test_the_same_verdict_again_says_nothing_of_a_later_part_of_that_number() -> None:
    gate = armed()
    gate.trigger(210, 1)
    hears_ok(gate, 220, 1)
    assert gate.at_gate(230, 1)
    gate.trigger(240, 1)
    hears_ok(gate, 250, 1)
    assert not gate.at_gate(260, 1)


def test_a_verdict_without_a_part_is_matched_by_its_age_only_where_that_is_asked_for() -> None:
    by_time = replace(TWO, match_by_time=True, half_pitch_ms=40)
    for plc, passes in ((TWO, False), (by_time, True)):
        gate = armed(plc)
        gate.trigger(210, 1)
        gate.trigger(290, 2)
        hears_ok(gate, 310, 0)  # exposed at 280
        assert [gate.at_gate(320, 1), gate.at_gate(400, 2)] == [False, passes]


def test_three_late_in_a_row_or_an_overrun_alarm_until_they_are_acknowledged() -> None:
    gate = armed(Settings(cameras=1))
    for number, result in enumerate((LATE, LATE, OK, LATE, LATE), start=1):
        gate.message(210, verdict(number, number, result=result))
    assert not gate.alarm(220)
    for message in (verdict(6, 6, result=LATE), verdict(7, 7, bits=OVERRUN)):
        gate.message(220, message)
        assert gate.alarm(230)
        gate.acknowledge()
        assert not gate.alarm(230)


def test_a_gap_in_the_message_numbers_is_counted_as_lost() -> None:
    gate = armed()
    for number in (WRAP - 2, WRAP - 1, 2, 3):
        gate.message(210, verdict(number, 0))
    assert gate.lost == 2


# The world around it


def every_third(part: int) -> bool:
    return part % 3 == 0


class Ajar(Gate):
    def at_gate(self, now_ms: int, part: int) -> bool:
        return True


def a_second_of_parts(gate: Gate, result_of: dict[bool, int]) -> Conveyor:
    """Ten parts of 100 ms, told 30 ms after their exposure by a daemon that sees everything."""
    world = Conveyor(gate, 500 * MS, 100 * MS, 80 * MS, every_third)
    for k in range(5):
        world.message(k * 200 * MS // 2, beat(k + 1))
    for part in range(1, 11):
        now_ns = (400 + part * 100 + 30) * MS
        world.message(now_ns, beat(5 + part))
        world.message(now_ns, verdict(part, part, result=result_of[every_third(part)]))
    world.advance(1480 * MS)
    return world


def test_with_right_verdicts_the_good_parts_pass_and_the_bad_ones_do_not() -> None:
    tally = a_second_of_parts(Gate(Settings()), {False: OK, True: NOT_OK}).tally()
    assert (tally.passed, tally.rejected, tally.lost) == (7, 3, 0)
    assert tally.passed_defective == tally.passed_without_ok == ()


def test_a_defective_part_that_passes_is_found_out() -> None:
    tally = a_second_of_parts(Gate(Settings()), {False: OK, True: OK}).tally()
    assert tally.passed_defective == (3, 6, 9)
    assert tally.passed_without_ok == ()


def test_a_gate_that_opens_without_an_ok_is_found_out() -> None:
    tally = a_second_of_parts(Ajar(Settings()), {False: OK, True: NOT_OK}).tally()
    assert tally.passed_without_ok == (3, 6, 9)


@pytest.mark.parametrize(("numbers", "found"), [((1, 1), (1,)), ((1, 2), ())])
def test_a_gate_that_takes_one_frame_s_ok_told_twice_for_two_is_found_out(
    numbers: tuple[int, int], found: tuple[int, ...]
) -> None:
    world = Conveyor(Ajar(replace(TWO, frames_per_part=2)), 0, 100 * MS, 80 * MS, every_third)
    for camera in (1, 2):
        for number in numbers if camera == 2 else (1, 2):
            world.message(10 * MS, verdict(number, 1, camera=camera))
    world.advance(90 * MS)
    assert world.tally().passed_without_ok == found
