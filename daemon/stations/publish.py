"""PUBLISH: verdicts to those who wait for them, at once; events to the outbox. Event loop.

Nothing here waits: verdict sinks must not block, and the outbox takes an event and returns.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.ports import Event, Exposure, FrameId, Outcome, Reason, Verdict, VerdictSink
from daemon import events
from daemon.events import Line, Model
from daemon.records.ledger import Account
from daemon.records.outbox import Outbox
from daemon.stations.judge import Finding


@dataclass(frozen=True, slots=True)
class Place:
    """What events say of a camera besides its frames."""

    account: Account
    models: Mapping[str, Model]
    """By recipe."""
    mm_per_px: float | None


@dataclass(slots=True)
class _Run:
    """Frames in a row that are uninspected for one reason: one event for all of them."""

    first: FrameId
    last: FrameId
    reason: Reason
    count: int


class Publish:
    def __init__(
        self,
        line: Line,
        run_number: int,
        places: Mapping[str, Place],
        verdict_sinks: Sequence[VerdictSink],
        outbox: Outbox,
    ) -> None:
        self._line, self._run_number, self._places = line, run_number, places
        self._sinks, self._outbox = verdict_sinks, outbox
        self._runs: dict[str, _Run] = {}

    def verdict(self, verdict: Verdict, finding: Finding | None) -> None:
        frame = verdict.exposure.id
        self._places[frame.camera].account.decide(frame, verdict.outcome, verdict.reason)
        for sink in self._sinks:
            sink.tell(verdict)
        if verdict.outcome is Outcome.UNINSPECTED and verdict.reason is not None:
            self._uninspected(frame, verdict.reason)
        else:
            self._end_run(frame.camera)
        if finding is not None:
            self._defect(verdict.exposure, finding, verdict.latency_ms, late=False)

    def late_defect(self, exposure: Exposure, finding: Finding) -> None:
        """Found after the frame's verdict, which stands."""
        latency_ms = (time.monotonic_ns() - exposure.exposed_ns) / 1e6
        self._defect(exposure, finding, latency_ms, late=True)

    def missed(self, first: FrameId, last: FrameId, reason: Reason) -> None:
        """All frames from `first` to `last`, in one go and without verdicts."""
        self._end_run(first.camera)
        count = last.sequence - first.sequence + 1
        self._places[first.camera].account.missed(last, count, reason)
        self._runs[first.camera] = _Run(first, last, reason, count)
        self._end_run(first.camera)

    def of_line(self, kind: str, data: Mapping[str, Any]) -> None:
        """What the line as a whole has to say."""
        self._outbox.put(self.line_event(kind, data))

    def line_event(self, kind: str, data: Mapping[str, Any]) -> Event:
        return events.of_line(self._line, kind, self._run_number, time.time_ns(), data)

    def camera(self, camera: str, epoch: int, kind: str, problem: str | None) -> None:
        data = {} if problem is None else {"problem": problem}
        self._outbox.put(events.camera(self._line, camera, epoch, kind, time.time_ns(), data))

    def set_aside(self, frame: FrameId, image_ref: str | None) -> None:
        """A picture that killed two workers."""
        data = {"sequence": frame.sequence, "image_ref": image_ref}
        self._outbox.put(
            events.camera(self._line, frame.camera, frame.epoch, "set_aside", time.time_ns(), data)
        )

    def end_runs(self) -> None:
        """Say what is uninspected so far; called once a second, so that nothing waits for long."""
        for camera in list(self._runs):
            self._end_run(camera)

    def _defect(
        self, exposure: Exposure, finding: Finding, latency_ms: float, *, late: bool
    ) -> None:
        place = self._places[exposure.id.camera]
        self._outbox.put(
            events.defect(
                self._line,
                exposure,
                finding,
                model=place.models[finding.recipe],
                latency_ms=latency_ms,
                late=late,
                mm_per_px=place.mm_per_px,
            )
        )

    def _uninspected(self, frame: FrameId, reason: Reason) -> None:
        run = self._runs.get(frame.camera)
        if run is not None and (run.reason is not reason or run.last.epoch != frame.epoch):
            self._end_run(frame.camera)
            run = None
        if run is None:
            self._runs[frame.camera] = _Run(frame, frame, reason, 1)
        else:
            run.last, run.count = frame, run.count + 1

    def _end_run(self, camera: str) -> None:
        run = self._runs.pop(camera, None)
        if run is not None:
            self._outbox.put(
                events.uninspected(
                    self._line, run.first, run.last, run.reason, run.count, time.time_ns()
                )
            )
