"""What the outbox lost or had to give up, counted until an event says so. Outbox's thread."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from adapters.ports import Event
from daemon.records.outbox_file import Kind
from daemon.records.outbox_rescue import Damage

SAY_SECONDS = 10.0
"""Between two events of this kind, so that they do not fill what is full already."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shed:
    """Events that were given up since it was last said."""

    since_ns: int
    """Unix time."""
    events: Counter[Kind]
    reason: str


class Losses:
    def __init__(self) -> None:
        self.in_all: Counter[Kind] = Counter()
        """Events given up since the start."""
        self.announce: Callable[[Shed | Damage], Event] | None = None
        """Makes the event that says it."""
        self._damage: list[Damage] = []
        self._shed: Counter[Kind] = Counter()
        self._since_ns, self._reason = 0, ""
        self._said_s = self._logged_s = -SAY_SECONDS

    def shed(self, events: Counter[Kind], reason: str) -> None:
        if not self._shed:
            self._since_ns = time.time_ns()
        self._shed += events
        self._reason = reason
        self.in_all += events
        if time.monotonic() - self._logged_s >= SAY_SECONDS:
            self._logged_s = time.monotonic()
            log.warning("events shed", reason=reason, in_all=dict(self.in_all))

    def damaged(self, damage: Damage) -> None:
        log.error(
            "outbox damaged", problem=damage.problem, set_aside=damage.set_aside,
            saved=damage.saved, lost_at_most=damage.lost_at_most,
        )  # fmt: skip
        self._damage.append(damage)

    def to_say(self, *, now: bool) -> list[Event]:
        """The events that are due; all of them where it is the last chance (`now`)."""
        if self.announce is None:
            return []
        told: list[Shed | Damage] = list(self._damage)
        if self._shed and (now or time.monotonic() - self._said_s >= SAY_SECONDS):
            told.append(Shed(self._since_ns, self._shed, self._reason))
        return [self.announce(loss) for loss in told]

    def said(self) -> None:
        """What `to_say` returned is committed."""
        if self._shed:
            self._said_s = time.monotonic()
        self._damage.clear()
        self._shed = Counter()
