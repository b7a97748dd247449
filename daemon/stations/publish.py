"""PUBLISH: verdicts to those who wait for them, at once; events to the outbox. Event loop.

Nothing here waits: verdict sinks must not block, and the outbox takes an event and returns. Held
back are only events that are not at their end yet: runs of uninspected frames, and chains.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.ports import Event, Exposure, FrameId, Outcome, Reason, Verdict, VerdictSink
from daemon import events
from daemon.events import Line, Model, Moment
from daemon.records.ledger import Account
from daemon.records.outbox import Outbox
from daemon.stations.chains import Chain, Chains
from daemon.stations.judge import Finding

MOST_PROBLEM = 1000
"""Characters of a problem that an event tells; logs have all of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What events say of a camera besides its frames."""

    account: Account
    models: Mapping[str, Model]
    """By recipe."""
    mm_per_px: float | None
    line_scan: bool
    """Its frames are strips of one web."""


@dataclass(slots=True)
class _Run:
    """Frames in a row that are uninspected for one reason: one event for all of them."""

    first: FrameId
    last: FrameId
    reason: Reason
    count: int

    def goes_on(self, frame: FrameId, reason: Reason) -> bool:
        return reason is self.reason and frame == replace(
            self.last, sequence=self.last.sequence + 1
        )


class Publish:
    def __init__(
        self,
        line: Line,
        run_number: int,
        places: Mapping[str, Place],
        verdict_sinks: Sequence[VerdictSink],
        outbox: Outbox,
        plc_connected: Callable[[], bool] | None,
    ) -> None:
        """`plc_connected`: whether a verdict that is told now leaves for the PLC; None where there
        is no PLC."""
        self._line, self._run_number, self._places = line, run_number, places
        self._sinks, self._outbox, self._plc_connected = verdict_sinks, outbox, plc_connected
        self._runs: dict[str, _Run] = {}
        self._chains = {name: Chains() for name, place in places.items() if place.line_scan}
        self._last_order_ns, self._ordering = 0, threading.Lock()

    def verdict(self, verdict: Verdict, finding: Finding | None) -> None:
        """In the order of a camera's exposures."""
        exposure, frame = verdict.exposure, verdict.exposure.id
        self._places[frame.camera].account.decide(frame, verdict.outcome, verdict.reason)
        plc_sent = None if self._plc_connected is None else self._plc_connected()
        for sink in self._sinks:
            sink.tell(verdict)
        if finding is None:
            self._end_chain(frame.camera)
        if verdict.outcome is Outcome.UNINSPECTED and verdict.reason is not None:
            self._uninspected(frame, verdict.reason)
        else:
            self._end_run(frame.camera)
        if finding is not None:
            chain = Chain.of(exposure, verdict.decided_ns, finding, plc_sent=plc_sent)
            chains = self._chains.get(frame.camera)
            self._defects([chain] if chains is None else chains.strip(chain))

    def late_defect(self, exposure: Exposure, finding: Finding) -> None:
        """Found after the frame's verdict, which stands: the PLC never hears of it."""
        plc_sent = None if self._plc_connected is None else False
        chain = Chain.of(exposure, time.monotonic_ns(), finding, plc_sent=plc_sent)
        self._defects([chain], late=True)

    def missed(self, first: FrameId, last: FrameId, reason: Reason) -> None:
        """All frames from `first` to `last`, in one go and without verdicts."""
        self._end_chain(first.camera)
        self._end_run(first.camera)
        count = last.sequence - first.sequence + 1
        self._places[first.camera].account.missed(last, count, reason)
        self._runs[first.camera] = _Run(first, last, reason, count)
        self._end_run(first.camera)

    def of_line(self, kind: str, data: Mapping[str, Any]) -> None:
        """What the line as a whole has to say."""
        self._outbox.put(self.line_event(kind, data))

    def line_event(self, kind: str, data: Mapping[str, Any]) -> Event:
        return events.of_line(self._line, kind, self._run_number, self._now(), data)

    def camera(self, camera: str, epoch: int, kind: str, problem: str | None) -> None:
        if kind == "down":
            self._end_chain(camera)
        data = {} if problem is None else {"problem": problem[:MOST_PROBLEM]}
        self._outbox.put(events.camera(self._line, camera, epoch, kind, self._now(), data))

    def set_aside(self, frame: FrameId, image_ref: str | None) -> None:
        """A picture that killed two workers."""
        line, last = self._line, frame.sequence
        data = {"sequence": last, "image_ref": image_ref}
        self._outbox.put(
            events.camera(
                line, frame.camera, frame.epoch, "set_aside", self._now(), data, last=last
            )
        )

    def end_runs(self) -> None:
        """Say what has waited for long enough; called once a second. Frames that are uninspected so
        far are told each time."""
        for camera in list(self._runs):
            self._end_run(camera)
        now_ns = time.monotonic_ns()
        for chains in self._chains.values():
            self._defects(chains.overdue(now_ns))

    def finish(self) -> None:
        """Say everything that waits: the line stops."""
        for camera in list(self._runs):
            self._end_run(camera)
        for camera in self._chains:
            self._end_chain(camera)

    def _now(self) -> Moment:
        """From any thread: the outbox says what it lost from its own."""
        with self._ordering:
            wall_ns = time.time_ns()
            self._last_order_ns = max(wall_ns, self._last_order_ns + 1)
            return Moment(wall_ns, self._last_order_ns)

    def _end_chain(self, camera: str) -> None:
        if camera in self._chains:
            self._defects(self._chains[camera].broken())

    def _defects(self, chains: Iterable[Chain], *, late: bool = False) -> None:
        for chain in chains:
            place = self._places[chain.exposure.id.camera]
            self._outbox.put(
                events.defect(
                    self._line,
                    chain,
                    model=place.models[chain.finding.recipe],
                    late=late,
                    mm_per_px=place.mm_per_px,
                    line_scan=place.line_scan,
                )
            )

    def _uninspected(self, frame: FrameId, reason: Reason) -> None:
        run = self._runs.get(frame.camera)
        if run is not None and not run.goes_on(frame, reason):
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
                    self._line, run.first, run.last, run.reason, run.count, self._now()
                )
            )
