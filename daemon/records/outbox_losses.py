"""What the outbox had to give up: counted in its file, until an event says so. Outbox's thread.

While the disk takes nothing the counts stand here. A kill then loses them, but not the frames: of
what was given up unwritten the next start finds that no event told it (`daemon.records.reported`).
"""

import time
from collections import Counter
from collections.abc import Callable

import structlog

from adapters.ports import Event
from daemon.records.outbox_file import Damage, OutboxFile, Shed
from daemon.records.outbox_schema import Kind

SAY_SECONDS = 10.0
"""Between two events of this kind, so that they do not fill what is full already."""

log = structlog.get_logger()


class Losses:
    def __init__(self) -> None:
        self.in_all: Counter[Kind] = Counter()
        """Events given up since the start."""
        self.announce: Callable[[Shed | Damage], Event] | None = None
        """Makes the event that says it."""
        self._unwritten: Counter[Kind] = Counter()
        self._reason = ""
        self._said_s = self._logged_s = -SAY_SECONDS

    def shed(self, events: Counter[Kind], reason: str) -> None:
        """Given up without a transaction; told of with the next one."""
        self._unwritten += events
        self._reason = reason
        self._count(events, reason)

    def write(self, file: OutboxFile, shed: Counter[Kind], reason: str) -> None:
        """Within the transaction that gives them up; `written` after it."""
        for events, why in ((self._unwritten, self._reason), (shed, reason)):
            if events:
                file.lose(events, time.time_ns(), why)

    def written(self, shed: Counter[Kind], reason: str) -> None:
        self._unwritten = Counter()
        if shed:
            self._count(shed, reason)

    def _count(self, events: Counter[Kind], reason: str) -> None:
        self.in_all += events
        if time.monotonic() - self._logged_s >= SAY_SECONDS:
            self._logged_s = time.monotonic()
            log.warning("events shed", reason=reason, in_all=dict(self.in_all))

    def to_say(self, file: OutboxFile, *, now: bool) -> list[Event]:
        """The events that are due; also early where it is the last chance (`now`)."""
        if self.announce is None or not (now or time.monotonic() - self._said_s >= SAY_SECONDS):
            return []
        return [self.announce(loss) for loss in file.losses()]

    def said(self) -> None:
        self._said_s = time.monotonic()
