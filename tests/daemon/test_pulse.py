"""PULSE: the beat says what the line really does, and its counter moves only while it does it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.ports import Exposure, MachineState, Outcome, Reason, Verdict
from daemon.deadlines import percentile
from daemon.pulse import LATELY, PERIOD_MS, Pulse

MakeExposure = Callable[..., Exposure]


@dataclass
class Line:
    """What a pulse asks, as a test sets it."""

    scores: bool = True
    judges: bool = True
    shows: dict[int, bool] = field(default_factory=lambda: {1: True, 3: False, 32: False})

    def pulse(self) -> Pulse:
        cameras = {n: lambda n=n: self.shows[n] for n in self.shows}
        return Pulse(cameras, scores=lambda: self.scores, judges=lambda: self.judges)


@pytest.fixture
def verdict(exposure: MakeExposure) -> Callable[..., Verdict]:
    def make(latency_ms: float = 20.0, outcome: Outcome = Outcome.OK) -> Verdict:
        one = exposure()
        decided_ns = one.exposed_ns + int(latency_ms * 1e6)
        reason = Reason.LATE if outcome is Outcome.UNINSPECTED else None
        return Verdict(one, outcome, reason, None, None, decided_ns)

    return make


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_the_counter_moves_by_one_at_each_beat_at_which_scoring_and_judging_do(
    moments: list[tuple[bool, bool]],
) -> None:
    line, moved = Line(), 0
    pulse = line.pulse()
    for line.scores, line.judges in moments:
        moved += line.scores and line.judges
        assert pulse.beat().counter == moved


@given(st.sets(st.integers(1, 32)), st.sets(st.integers(1, 32)))
def test_the_bit_of_each_camera_that_shows_frames_is_set(known: set[int], up: set[int]) -> None:
    beat = Line(shows={number: number in up for number in known}).pulse().beat()
    assert {n for n in range(1, 33) if beat.cameras_ok >> (n - 1) & 1} == known & up
    assert beat.cameras_ok < 1 << 32


@pytest.mark.parametrize("halted", [False, True])
@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("shows", [False, True])
def test_the_state_says_the_worst(halted: bool, scores: bool, shows: bool) -> None:
    pulse = Line(scores=scores, shows={1: False, 2: shows}).pulse()
    pulse.halted = halted
    states = MachineState
    if halted:
        wanted = states.HALTED
    elif not scores:
        wanted = states.ERROR
    else:
        wanted = states.CONTINUOUS_EXECUTION if shows else states.READY
    assert pulse.beat().state is wanted


def test_a_line_that_judges_no_more_has_the_same_counter_in_every_beat() -> None:
    line = Line()
    pulse = line.pulse()
    before = pulse.beat().counter
    line.judges = False
    assert {pulse.beat().counter for _ in range(10)} == {before}


def test_every_verdict_is_counted_and_only_those_judged_are_timed(
    verdict: Callable[..., Verdict],
) -> None:
    pulse = Line().pulse()
    assert (pulse.beat().verdicts, pulse.beat().p99_ms, pulse.beat().period_ms) == (0, 0, PERIOD_MS)
    pulse.tell(verdict(20.0))
    pulse.tell(verdict(30.0, Outcome.DEFECT))
    pulse.tell(verdict(9000.0, Outcome.UNINSPECTED))
    assert (pulse.beat().verdicts, pulse.beat().p99_ms) == (3, 30.0)


def test_the_p99_leaves_one_of_a_hundred_out(verdict: Callable[..., Verdict]) -> None:
    pulse = Line().pulse()
    for latency_ms in (500.0, *range(1, 100)):
        pulse.tell(verdict(latency_ms))
    assert pulse.beat().p99_ms == 99.0


def test_the_p99_forgets_what_was_long_ago(verdict: Callable[..., Verdict]) -> None:
    pulse = Line().pulse()
    for latency_ms in (*[500.0] * LATELY, *[7.0] * LATELY):
        pulse.tell(verdict(latency_ms))
    assert (pulse.beat().p99_ms, pulse.beat().verdicts) == (7.0, 2 * LATELY)


@given(st.lists(st.integers(-50, 50), min_size=1), st.integers(1, 100))
@example([1, 2], 50)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[int], q: int
) -> None:
    found = percentile(values, q)
    assert 100 * sum(v <= found for v in values) >= q * len(values)
    assert 100 * sum(v < found for v in values) < q * len(values)
