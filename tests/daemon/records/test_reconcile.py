"""RECONCILE: a sound line never disagrees, whatever is under way; a gate that errs is found out."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.ports import Exposure, FrameId, LineTold, Outcome, PartTold, Reason, Verdict
from daemon.records.reconcile import REMEMBERED, UNSEEN_AFTER_NS, Disagreement, Reconciliation

TRAVEL_MS, DOWN_MS, SECOND_MS = 500, 2000, 1000
SLOWEST_MS = 400  # of the verdicts, so that the PLC has them in time


def verdict(camera: str, part: int, outcome: Outcome = Outcome.OK, at_ms: int = 0) -> Verdict:
    exposure = Exposure(FrameId("line", camera, 1, at_ms), 0, 0, 0, part)
    reason = Reason.LATE if outcome is Outcome.UNINSPECTED else None
    return Verdict(exposure, outcome, reason, None, None, at_ms * 1_000_000)


@dataclass(frozen=True)
class Part:
    gap_ms: int
    """To the part before it."""
    frames: tuple[tuple[str, int, Outcome], ...]
    """Camera, from trigger to verdict in ms, and what was said."""
    taken_off: bool = False
    opens: bool | None = None
    """The gate, against what it was told; None: as it should."""
    restart: bool = False
    """The PLC starts anew before it."""


@dataclass
class Line:
    """PLC, cameras and what is on its way between them, in ms of one clock."""

    reconciliation: Reconciliation
    word_ms: int
    """From the PLC to us."""
    named: bool = True
    now_ms: int = 0
    parts: int = 0
    accepted: int = 0
    rejected: int = 0
    started_ms: int = 0
    said: list[Disagreement] = field(default_factory=list)
    told: LineTold | None = None

    def __post_init__(self) -> None:
        self.pending: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.last_ms: Counter[str] = Counter()

    def at(self, when_ms: int, what: Callable[[], None]) -> None:
        heapq.heappush(self.pending, (when_ms, next(self.order), what))

    def until(self, when_ms: int) -> None:
        while self.pending and self.pending[0][0] <= when_ms:
            self.now_ms, _, what = heapq.heappop(self.pending)
            what()
        self.now_ms = when_ms

    def hear(self, what: Callable[[], list[Disagreement]]) -> None:
        self.at(self.now_ms + self.word_ms, lambda: self.said.extend(what()))

    def sample(self) -> None:
        """The PLC's counts, once a second as long as it runs."""
        if self.now_ms >= self.started_ms:
            told = LineTold(True, "", self.parts, self.accepted, self.rejected, 0, ())
            self.told = told
            self.hear(lambda: self.reconciliation.line(told))
        self.at(max(self.now_ms + SECOND_MS, self.started_ms), self.sample)

    def show(self, part: Part) -> None:
        self.until(self.now_ms + part.gap_ms)
        if part.restart and self.told is not None and self.told.parts >= 2:
            self.parts = self.accepted = self.rejected = 0
            self.started_ms = self.now_ms + DOWN_MS
            self.until(self.started_ms)
        self.parts += 1
        number, start_ms = self.parts, self.started_ms
        heard: dict[str, bool] = {}

        def say(camera: str, outcome: Outcome) -> None:
            heard[camera] = heard.get(camera, True) and outcome is Outcome.OK
            name = number if self.named else 0
            self.reconciliation.tell(verdict(camera, name, outcome, self.now_ms))

        def gate() -> None:
            passes = heard == dict.fromkeys(heard, True) if part.opens is None else part.opens
            if start_ms == self.started_ms:  # else it has forgotten the part
                self.accepted += passes
                self.rejected += not passes

        self.hear(lambda: self.reconciliation.part(PartTold(number, number), self.now_ms * 10**6))
        for camera, after_ms, outcome in part.frames:
            # A camera's verdicts come in the order of its frames.
            self.last_ms[camera] = max(self.last_ms[camera], self.now_ms + after_ms)
            self.at(self.last_ms[camera], lambda c=camera, o=outcome: say(c, o))
        if not part.taken_off:
            self.at(self.now_ms + TRAVEL_MS, gate)

    def run(self, parts: list[Part], phase_ms: int) -> Counter[str]:
        """Empty at both ends, for long enough to be sampled so."""
        self.at(phase_ms, self.sample)
        self.until(3 * SECOND_MS)
        for part in parts:
            self.show(part)
        self.until(self.now_ms + 5 * SECOND_MS)
        kinds: Counter[str] = Counter()
        for one in self.said:
            kinds[one.alarm] += one.parts
            assert one.in_all == kinds[one.alarm]
        return kinds


GAPS = st.one_of(st.integers(20, 200), st.integers(20, 2500))
OUTCOMES = st.sampled_from([*[Outcome.OK] * 3, Outcome.DEFECT, Outcome.UNINSPECTED])
FRAMES = st.tuples(st.integers(5, SLOWEST_MS), OUTCOMES)
WORDS, PHASES = st.integers(0, 900), st.integers(0, 999)


def frames_of(cameras: tuple[str, ...]) -> st.SearchStrategy[tuple[tuple[str, int, Outcome], ...]]:
    each = [
        st.lists(FRAMES, min_size=1, max_size=2).map(lambda fs, c=c: [(c, *f) for f in fs])
        for c in cameras
    ]
    return st.tuples(*each).map(lambda lists: tuple(itertools.chain(*lists)))


def parts_of(cameras: tuple[str, ...], **more: st.SearchStrategy[object]) -> object:
    return st.lists(st.builds(Part, GAPS, frames_of(cameras), **more), min_size=1, max_size=30)


@settings(max_examples=400, deadline=None)
@given(
    parts_of(("left", "right"), taken_off=st.integers(0, 9).map(lambda n: n == 0),
             restart=st.integers(0, 9).map(lambda n: n == 0)), WORDS, PHASES,
)  # fmt: skip
def test_a_sound_line_never_disagrees(parts: list[Part], word_ms: int, phase_ms: int) -> None:
    line = Line(Reconciliation({"left", "right"}), word_ms)
    assert line.run(parts, phase_ms) == {}, line.said


@settings(max_examples=100, deadline=None)
@given(
    parts_of(("left",), restart=st.integers(0, 9).map(lambda n: n == 0)), WORDS, PHASES
)  # fmt: skip
def test_a_sound_line_whose_camera_knows_no_part_numbers_never_disagrees(
    parts: list[Part], word_ms: int, phase_ms: int
) -> None:
    """The PLC finds the part of each verdict by the time."""
    line = Line(Reconciliation({"left"}), word_ms, named=False)
    assert line.run(parts, phase_ms) == {}, line.said


@settings(max_examples=200, deadline=None)
@given(parts_of(("left", "right"), opens=st.sampled_from([None, None, True])), WORDS, PHASES)
def test_every_part_that_passed_without_ok_is_said_once_by_the_time_the_line_is_empty(
    parts: list[Part], word_ms: int, phase_ms: int
) -> None:
    wrong = sum(
        part.opens is True and any(o is not Outcome.OK for _, _, o in part.frames) for part in parts
    )
    line = Line(Reconciliation({"left", "right"}), word_ms)
    assert line.run(parts, phase_ms) == +Counter(passed_without_ok=wrong)


@settings(max_examples=200, deadline=None)
@given(parts_of(("left", "right"), opens=st.sampled_from([None, None, False])), WORDS, PHASES)
def test_every_ok_that_did_not_open_the_gate_is_said_once_by_the_time_the_line_is_empty(
    parts: list[Part], word_ms: int, phase_ms: int
) -> None:
    unused = sum(
        part.opens is False and all(o is Outcome.OK for _, _, o in part.frames) for part in parts
    )
    line = Line(Reconciliation({"left", "right"}), word_ms)
    assert line.run(parts, phase_ms) == +Counter(ok_not_passed=unused)


def told(parts: int, accepted: int, rejected: int = 0) -> LineTold:
    return LineTold(True, "", parts, accepted, rejected, 0, ())


def test_one_kind_of_error_does_not_hide_the_other_or_itself() -> None:
    one = Reconciliation({"left"})
    for _ in range(2):
        assert one.line(told(0, 0)) == []
    assert one.line(told(1, 1)) == [Disagreement("passed_without_ok", 1, 1)]
    assert one.line(told(1, 1)) == []
    one.tell(verdict("left", 2))
    assert one.line(told(2, 1, 1)) == []  # it may have been on its way
    assert one.line(told(2, 1, 1)) == [Disagreement("ok_not_passed", 1, 1)]
    assert one.line(told(2, 1, 1)) == []
    assert one.line(told(3, 2, 1)) == [Disagreement("passed_without_ok", 1, 2)]


def test_triggers_that_the_plc_counted_and_did_not_tell_are_said_once() -> None:
    one = Reconciliation({"left"})
    assert one.part(PartTold(70, 7), 0) == []  # what was before we came is nobody's
    assert one.part(PartTold(80, 8), 1) == []
    assert one.part(PartTold(110, 11), 2) == [Disagreement("triggers_lost", 2, 2)]
    assert one.part(PartTold(110, 11), 3) == []  # QoS 1 may say it twice
    assert one.part(PartTold(130, 13), 4) == [Disagreement("triggers_lost", 1, 3)]
    assert one.part(PartTold(1, 1), 5) == []  # it counts anew
    assert one.part(PartTold(2, 2), 6) == []


def test_a_part_that_one_camera_never_showed_is_said_once() -> None:
    one = Reconciliation({"left", "right"})
    for k in range(1, 4):
        assert one.part(PartTold(k, k), k) == []
        one.tell(verdict("left", k))
        if k != 2:
            one.tell(verdict("right", k))
    assert one.part(PartTold(4, 4), UNSEEN_AFTER_NS + 2) == []
    assert one.part(PartTold(5, 5), UNSEEN_AFTER_NS + 3) == [Disagreement("part_unseen", 1, 1)]
    assert one.part(PartTold(6, 6), UNSEEN_AFTER_NS + 4) == []


def test_parts_of_a_plc_that_counts_anew_are_not_those_of_the_same_numbers_before() -> None:
    """All cameras are dark since: nobody showed them."""
    one = Reconciliation({"left", "right"})
    for k in range(1, 4):
        for camera in ("left", "right"):
            one.tell(verdict(camera, k))
        one.part(PartTold(k, k), 0)
    later = 2 * UNSEEN_AFTER_NS
    for k in range(1, 4):
        assert one.part(PartTold(k, k), later) == []
    assert one.part(PartTold(4, 4), later + UNSEEN_AFTER_NS + 1) == [
        Disagreement("part_unseen", 3, 3)
    ]


def test_a_part_with_several_frames_is_one_ok_and_one_bad_frame_takes_it_back() -> None:
    one = Reconciliation({"left"})
    for _ in range(2):
        one.line(told(0, 0))
    for part, last in ((1, Outcome.OK), (2, Outcome.DEFECT)):
        for outcome in (Outcome.OK, Outcome.OK, last, Outcome.OK):
            one.tell(verdict("left", part, outcome))
    for _ in range(3):
        assert one.line(told(2, 1, 1)) == []


def test_what_is_remembered_is_bounded() -> None:
    one = Reconciliation({"left", "right"})
    for k in range(1, REMEMBERED + 50):
        one.tell(verdict("left", k))
    assert len(one._parts) == REMEMBERED


def test_verdicts_that_the_plc_did_not_hear_are_said_once_however_often_it_speaks() -> None:
    told = LineTold(True, "", 0, 0, 0, 0, (0, 0))
    both = Reconciliation({"left", "right"})
    heard = [(0, 0), (10, 10), (10, 20), (10, 20), (35, 20)]
    sent = [{1: 9, 2: 9}, {1: 20, 2: 20}, {1: 30, 2: 30}, {1: 30, 2: 30}, {1: 40, 2: 30}]
    said = [
        [(d.alarm, d.parts) for d in both.messages(replace(told, last_msg_no=theirs), ours)]
        for theirs, ours in zip(heard, sent, strict=True)
    ]
    assert said == [[], [], [("unheard", 10)], [("unheard", 20)], []]
