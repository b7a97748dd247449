"""JUDGE: exactly one verdict for every exposure, in its camera's order, in time."""

import asyncio
import math
import time
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from adapters.ports import Exposure, Frame, FrameFormat, FrameId, Outcome, Reason, Verdict
from daemon.records.evidence import References
from daemon.stations.judge import Finding, Judge
from daemon.worker.protocol import Result
from model.judgement import Judgement, judge
from model.regions import Region

MakeFrame = Callable[..., Frame]
MakeResult = Callable[..., Result]


class Told:
    """Who is told by a judge, and what."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.findings: list[Finding | None] = []
        self.late: list[tuple[Exposure, Finding]] = []
        self.pictures = 0
        self.judge = Judge(self.tell, lambda *said: self.late.append(said), self.keep)

    def tell(self, verdict: Verdict, finding: Finding | None) -> None:
        self.verdicts.append(verdict)
        self.findings.append(finding)

    def keep(self, frame: Frame, result: Result) -> References:
        self.pictures += 1
        return References(f"file:///{frame.exposure.id.sequence}", None)

    def said(self) -> list[tuple[int, Outcome, Reason | None]]:
        return [(v.exposure.id.sequence, v.outcome, v.reason) for v in self.verdicts]


async def test_verdicts_come_in_the_order_of_exposures_however_they_were_found(
    frame: MakeFrame, result: MakeResult
) -> None:
    told, frames = Told(), [frame(k) for k in range(3)]
    for one in frames:
        told.judge.expect(one.exposure)
    told.judge.answered(frames[2], result())
    told.judge.uninspected(frames[1].exposure, Reason.OVERLOAD)
    assert told.said() == []
    told.judge.answered(frames[0], result(Judgement.DEFECT, 0.9))
    assert told.said() == [
        (0, Outcome.DEFECT, None),
        (1, Outcome.UNINSPECTED, Reason.OVERLOAD),
        (2, Outcome.OK, None),
    ]
    assert told.findings[0] is not None
    assert told.findings[1:] == [None, None]


async def test_one_cameras_wait_holds_up_no_other(frame: MakeFrame, result: MakeResult) -> None:
    told, left, right = Told(), frame(0), frame(0, camera="right")
    told.judge.expect(left.exposure)
    told.judge.expect(right.exposure)
    told.judge.answered(right, result())
    assert [v.exposure.id.camera for v in told.verdicts] == ["right"]
    told.judge.decide_all(Reason.SHUTDOWN)


async def test_the_first_decision_stands(frame: MakeFrame, result: MakeResult) -> None:
    told, one = Told(), frame(0)
    told.judge.expect(one.exposure)
    told.judge.answered(one, result())
    told.judge.uninspected(one.exposure, Reason.LATE)
    told.judge.answered(one, result())
    told.judge.decide_all(Reason.SHUTDOWN)
    assert told.said() == [(0, Outcome.OK, None)]
    assert not told.late


async def test_the_first_decision_stands_also_while_it_waits_for_its_turn(
    frame: MakeFrame, result: MakeResult
) -> None:
    told, first, second = Told(), frame(0), frame(1)
    told.judge.expect(first.exposure)
    told.judge.expect(second.exposure)
    told.judge.uninspected(second.exposure, Reason.OVERLOAD)
    told.judge.answered(second, result())
    told.judge.answered(first, result())
    assert told.said() == [(0, Outcome.OK, None), (1, Outcome.UNINSPECTED, Reason.OVERLOAD)]


async def test_at_the_deadline_the_verdict_is_late(frame: MakeFrame, until: Callable) -> None:
    told, one = Told(), frame(0, within_s=0.03)
    told.judge.expect(one.exposure)
    await until(lambda: bool(told.verdicts))
    assert told.said() == [(0, Outcome.UNINSPECTED, Reason.LATE)]
    assert told.verdicts[0].score is None
    assert 0 <= told.verdicts[0].decided_ns - one.exposure.deadline_ns < 500_000_000
    assert told.judge.idle.is_set()


async def test_a_deadline_that_has_passed_already_is_late_at_once(
    frame: MakeFrame, until: Callable
) -> None:
    told = Told()
    told.judge.expect(frame(0, within_s=-1.0).exposure)
    await until(lambda: bool(told.verdicts), 1.0)
    assert told.said() == [(0, Outcome.UNINSPECTED, Reason.LATE)]


async def test_a_defect_found_after_the_verdict_is_told_late_and_never_a_second_verdict(
    frame: MakeFrame, result: MakeResult
) -> None:
    told, one = Told(), frame(0)
    told.judge.expect(one.exposure)
    told.judge.uninspected(one.exposure, Reason.LATE)
    found = result(Judgement.DEFECT, 0.9)
    told.judge.answered(one, found)
    assert told.said() == [(0, Outcome.UNINSPECTED, Reason.LATE)]
    assert told.late == [(one.exposure, Finding(found, "file:///0", "", 64, None))]
    told.judge.answered(frame(1), result())  # an ok that comes late is nothing to tell
    assert len(told.late) == 1


@pytest.mark.parametrize(
    ("score", "sound", "threshold", "outcome", "reason"),
    [
        (0.5, True, 0.5, Outcome.OK, None),
        (math.nextafter(0.5, 1), True, 0.5, Outcome.DEFECT, None),
        (0.4, True, math.nan, Outcome.DEFECT, None),
        (math.nan, True, 0.5, Outcome.UNINSPECTED, Reason.INVALID_SCORE),
        (-math.inf, True, 0.5, Outcome.UNINSPECTED, Reason.INVALID_SCORE),
        (math.inf, False, 0.5, Outcome.UNINSPECTED, Reason.INVALID_SCORE),
        (0.1, False, 0.5, Outcome.UNINSPECTED, Reason.IMAGE_QUALITY),
        (0.9, False, 0.5, Outcome.UNINSPECTED, Reason.IMAGE_QUALITY),
    ],
)
async def test_only_a_finite_score_of_a_sound_picture_up_to_the_threshold_is_ok(
    frame: MakeFrame, score: float, sound: bool, threshold: float, outcome: Outcome,
    reason: Reason | None,
) -> None:  # fmt: skip
    told, one = Told(), frame(0)
    told.judge.expect(one.exposure)
    told.judge.answered(
        one,
        Result(
            score,
            threshold,
            judge(score, threshold, None if sound else Judgement.IMAGE_QUALITY),
            (),
        ),
    )
    assert told.said() == [(0, outcome, reason)]
    assert told.pictures == (outcome is Outcome.DEFECT)


async def test_decide_all_leaves_nothing_open_and_the_deadlines_add_nothing(
    frame: MakeFrame,
) -> None:
    told = Told()
    for camera in ("left", "right"):
        for k in range(3):
            told.judge.expect(frame(k, camera=camera, within_s=0.05).exposure)
    told.judge.decide_all(Reason.SHUTDOWN)
    assert {reason for _, _, reason in told.said()} == {Reason.SHUTDOWN}
    assert len(told.verdicts) == 6
    await asyncio.sleep(0.08)  # their deadlines pass
    assert len(told.verdicts) == 6


async def test_it_is_idle_exactly_while_nothing_is_pending(
    frame: MakeFrame, result: MakeResult
) -> None:
    told, frames = Told(), [frame(0), frame(1)]
    assert told.judge.idle.is_set()
    for one in frames:
        told.judge.expect(one.exposure)
    told.judge.answered(frames[1], result())
    assert not told.judge.idle.is_set()
    told.judge.answered(frames[0], result())
    assert told.judge.idle.is_set()


CAMERAS = st.sampled_from(["left", "right"])
RESULTS = st.sampled_from(Judgement).map(
    lambda said: Result(0.5, 0.4, said, (Region(0, 0, 1, 1, 1, 0.5),))
)


class Interleavings(RuleBasedStateMachine):
    """Any order of what can happen to frames, against: first decision, told in order, once."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.told = self.on_loop(Told)
        self.expected: dict[str, list[Frame]] = {"left": [], "right": []}
        self.first: dict[FrameId, tuple[Outcome, Reason | None]] = {}
        self.late_defects = 0

    def on_loop(self, call: Callable, *arguments: object) -> object:
        async def run() -> object:
            return call(*arguments)

        return self.loop.run_until_complete(run())

    def decided(self, frame: Frame, outcome: Outcome, reason: Reason | None) -> None:
        if frame.exposure.id in self.first:
            self.late_defects += outcome is Outcome.DEFECT
        self.first.setdefault(frame.exposure.id, (outcome, reason))

    @rule(camera=CAMERAS)
    def expect(self, camera: str) -> None:
        frames = self.expected[camera]
        now_ns = time.monotonic_ns()
        id_ = FrameId("line", camera, 1, len(frames))
        exposure = Exposure(id_, now_ns, 0, now_ns + 10**12, 0)
        frames.append(Frame(exposure, FrameFormat(64, 64, 1, "uint8"), 0))
        self.on_loop(self.told.judge.expect, exposure)

    @rule(camera=CAMERAS, which=st.integers(0, 5), found=RESULTS)
    def answer(self, camera: str, which: int, found: Result) -> None:
        if frames := self.expected[camera]:
            frame = frames[-1 - which % len(frames)]
            self.on_loop(self.told.judge.answered, frame, found)
            name = found.judgement.value
            if name in ("ok", "defect"):
                self.decided(frame, Outcome(name), None)
            else:
                self.decided(frame, Outcome.UNINSPECTED, Reason(name))

    @rule(camera=CAMERAS, which=st.integers(0, 5), reason=st.sampled_from(Reason))
    def uninspected(self, camera: str, which: int, reason: Reason) -> None:
        if frames := self.expected[camera]:
            frame = frames[-1 - which % len(frames)]
            self.on_loop(self.told.judge.uninspected, frame.exposure, reason)
            self.decided(frame, Outcome.UNINSPECTED, reason)

    @rule(chance=st.integers(0, 9))
    def shutdown(self, chance: int = 0) -> None:
        if chance:  # rarely: it leaves nothing open
            return
        self.on_loop(self.told.judge.decide_all, Reason.SHUTDOWN)
        for frame in (*self.expected["left"], *self.expected["right"]):
            self.first.setdefault(frame.exposure.id, (Outcome.UNINSPECTED, Reason.SHUTDOWN))

    @invariant()
    def each_exposure_has_its_first_decision_told_once_and_in_order(self) -> None:
        open_ = 0
        for camera, frames in self.expected.items():
            told = [v for v in self.told.verdicts if v.exposure.id.camera == camera]
            decided = 0
            while decided < len(frames) and frames[decided].exposure.id in self.first:
                decided += 1
            assert [v.exposure for v in told] == [f.exposure for f in frames[:decided]]
            assert [(v.outcome, v.reason) for v in told] == [
                self.first[v.exposure.id] for v in told
            ]
            open_ += len(frames) - decided
        assert self.told.judge.idle.is_set() == (open_ == 0)
        assert len(self.told.late) == self.late_defects

    def teardown(self) -> None:
        self.shutdown()
        self.loop.close()


Interleavings.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase


@pytest.mark.parametrize("judgement", [Judgement.OK, Judgement.DEFECT])
async def test_an_answer_that_was_read_before_the_timer_but_after_the_deadline_is_late(
    frame: MakeFrame, result: Callable[..., Result], judgement: Judgement
) -> None:
    """The loop was away: both are due in one turn of it, and the answer comes first."""
    told, one = Told(), frame(0, within_s=0.0)
    told.judge.expect(one.exposure)
    told.judge.answered(one, result(judgement))
    assert told.said() == [(0, Outcome.UNINSPECTED, Reason.LATE)]
    assert [e for e, _ in told.late] == ([one.exposure] if judgement is Judgement.DEFECT else [])
