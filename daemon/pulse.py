"""PULSE: the beat that tells the PLC we are alive, and that we really inspect. Event loop.

Its counter moves only while scoring and judging do, or while there is nothing to do: a beat of a
line that stands still inside would be a lie.
"""

from collections import deque
from collections.abc import Callable, Mapping

from adapters.ports import Beat, MachineState, Outcome, Verdict
from daemon.deadlines import percentile

PERIOD_MS = 200
LATELY = 500  # judged frames that the p99 is of


class Pulse:
    """A verdict sink that remembers what the next beat says."""

    def __init__(
        self,
        cameras: Mapping[int, Callable[[], bool]],
        *,
        scores: Callable[[], bool],
        judges: Callable[[], bool],
    ) -> None:
        """`cameras`: by number, whether it shows frames. `scores`: there is a worker, and it lives.
        `judges`: no frame waits for its verdict longer than it may."""
        self._cameras, self._scores, self._judges = cameras, scores, judges
        self._counter = self._verdicts = 0
        self._latencies_ms: deque[float] = deque(maxlen=LATELY)
        self.halted = False
        """The line was told to stop."""

    def tell(self, verdict: Verdict) -> None:
        self._verdicts += 1
        if verdict.outcome is not Outcome.UNINSPECTED:
            self._latencies_ms.append(verdict.latency_ms)

    def beat(self) -> Beat:
        """The next one; every PERIOD_MS."""
        scores = self._scores()
        if scores and self._judges():
            self._counter += 1
        shown = sum(1 << (number - 1) for number, shows in self._cameras.items() if shows())
        return Beat(
            state=self._state(scores=scores, shows=shown > 0),
            counter=self._counter,
            cameras_ok=shown,
            verdicts=self._verdicts,
            period_ms=PERIOD_MS,
            p99_ms=percentile(self._latencies_ms, 99),
        )

    def _state(self, *, scores: bool, shows: bool) -> MachineState:
        if self.halted:
            return MachineState.HALTED
        if not scores:
            return MachineState.ERROR
        return MachineState.CONTINUOUS_EXECUTION if shows else MachineState.READY
