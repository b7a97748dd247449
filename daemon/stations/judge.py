"""JUDGE: one verdict for every exposure, in its camera's order, at its deadline at the latest.

The first decision of a frame stands; what a score means was decided by `model.judgement`. Event
loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from adapters.ports import Exposure, Frame, FrameId, Outcome, Reason, Verdict
from daemon.records.evidence import References
from daemon.worker.protocol import Result
from model.judgement import Judgement


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect, with the references of its pictures where they are kept."""

    result: Result
    image_ref: str | None
    """What a person looks at."""
    recipe: str
    height: int
    """Rows of the frame."""
    frame_ref: str | None
    """The whole frame, as scored."""


@dataclass(slots=True)
class _Pending:
    exposure: Exposure
    timer: asyncio.TimerHandle
    verdict: Verdict | None = None
    finding: Finding | None = None


Tell = Callable[[Verdict, Finding | None], None]
TellLate = Callable[[Exposure, Finding], None]
Keep = Callable[[Frame, Result], References | None]


class Judge:
    def __init__(self, tell: Tell, tell_late: TellLate, keep: Keep) -> None:
        """`tell` gets every verdict, `tell_late` a defect found after its frame's verdict;
        `keep` reserves room for a defect's pictures, which are taken once its slot is given
        back."""
        self._tell, self._tell_late, self._keep = tell, tell_late, keep
        self._pending: dict[FrameId, _Pending] = {}
        self._order: dict[str, deque[_Pending]] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def expect(self, exposure: Exposure) -> None:
        """From now on there will be a verdict. In the order of a camera's exposures."""
        late_at = exposure.deadline_ns / 1e9
        loop = asyncio.get_running_loop()
        timer = loop.call_at(late_at, self.uninspected, exposure, Reason.LATE)
        pending = _Pending(exposure, timer)
        self._pending[exposure.id] = pending
        self._order.setdefault(exposure.id.camera, deque()).append(pending)
        self.idle.clear()

    def overdue(self, now_ns: int) -> bool:
        """Some frame waits although its deadline is past: the timers do not come."""
        return any(
            order and order[0].exposure.deadline_ns < now_ns for order in self._order.values()
        )

    def uninspected(self, exposure: Exposure, reason: Reason) -> None:
        self._decide(exposure, Outcome.UNINSPECTED, reason)

    def answered(self, frame: Frame, result: Result) -> None:
        """The worker's answer; the frame still stands in its slot."""
        outcome, reason = _MEANING[result.judgement]
        finding = None
        if outcome is Outcome.DEFECT:
            refs = self._keep(frame, result) or References(None, None)
            finding = Finding(
                result, refs.image, frame.recipe, frame.format.height, frame_ref=refs.frame
            )
        first = self._decide(frame.exposure, outcome, reason, frame.recipe, result, finding)
        if finding is not None and not first:
            self._tell_late(frame.exposure, finding)

    def decide_all(self, reason: Reason) -> None:
        """The line stops: what is still pending gets its verdict now."""
        for pending in list(self._pending.values()):
            self.uninspected(pending.exposure, reason)

    def _decide(
        self,
        exposure: Exposure,
        outcome: Outcome,
        reason: Reason | None,
        recipe: str = "",
        result: Result | None = None,
        finding: Finding | None = None,
    ) -> bool:
        """Whether this decision is the frame's first."""
        pending = self._pending.get(exposure.id)
        if pending is None or pending.verdict is not None:
            return False
        now_ns = time.monotonic_ns()
        if now_ns > exposure.deadline_ns and outcome is not Outcome.UNINSPECTED:
            # The answer came in the same turn of the loop as the timer, and was taken first.
            self._settle(pending, Outcome.UNINSPECTED, Reason.LATE, "", None, now_ns)
            return False
        pending.finding = finding
        self._settle(pending, outcome, reason, recipe, result, now_ns)
        return True

    def _settle(
        self,
        pending: _Pending,
        outcome: Outcome,
        reason: Reason | None,
        recipe: str,
        result: Result | None,
        now_ns: int,
    ) -> None:
        exposure = pending.exposure
        score, threshold = (None, None) if result is None else (result.score, result.threshold)
        pending.verdict = Verdict(exposure, outcome, reason, score, threshold, now_ns, recipe)
        pending.timer.cancel()
        self._tell_in_order(exposure.id.camera)

    def _tell_in_order(self, camera: str) -> None:
        order = self._order[camera]
        while order and (verdict := order[0].verdict) is not None:
            first = order.popleft()
            del self._pending[first.exposure.id]
            self._tell(verdict, first.finding)
        if not self._pending:
            self.idle.set()


_MEANING: dict[Judgement, tuple[Outcome, Reason | None]] = {
    Judgement.OK: (Outcome.OK, None),
    Judgement.DEFECT: (Outcome.DEFECT, None),
    Judgement.INVALID_SCORE: (Outcome.UNINSPECTED, Reason.INVALID_SCORE),
    Judgement.IMAGE_QUALITY: (Outcome.UNINSPECTED, Reason.IMAGE_QUALITY),
    Judgement.INCOMPLETE: (Outcome.UNINSPECTED, Reason.INCOMPLETE),
}
