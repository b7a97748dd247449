"""The PLC's counts against ours: what the gate did must follow from what we said.

Pure bookkeeping on what is told, on the event loop. How many of our oks did not open the gate is
known within bounds only, since parts are under way to it and words are under way to us. While the
line is sound the true number stands still: bounds clear of all earlier ones are a disagreement.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from adapters.ports import LineTold, Outcome, PartTold, Verdict

REMEMBERED = 4096  # parts
UNSEEN_AFTER_NS = 5_000_000_000
"""A part that the PLC told and that some camera did not show in so long never passed it."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    alarm: str
    """`passed_without_ok`: the gate let more through than we called ok. `ok_not_passed`: less.
    `triggers_lost`: parts that the PLC counted and did not tell. `part_unseen`: parts it told that
    a camera never showed. `unheard`: verdicts that were sent before its last word, and that it
    says it did not hear."""
    parts: int
    """How many are new."""
    in_all: int
    """Since our start."""


@dataclass(slots=True)
class _Part:
    ok: dict[str, bool] = field(default_factory=dict)
    """By camera that showed it."""
    told_ns: int = 0


class Reconciliation:
    """A verdict sink that hears the PLC as well. What it returns is an alarm each."""

    def __init__(self, cameras: Collection[str]) -> None:
        self._cameras = frozenset(cameras)
        self._parts: OrderedDict[int, _Part] = OrderedDict()
        self._newest: dict[str, int] = {}
        self._oks = self._oks_when_heard = 0
        """Parts that every camera called ok; and when the PLC's counts were last heard."""
        self._nameless_oks = 0
        """Frames without a part number that were ok: the PLC may find their parts by the time."""
        self._heard: LineTold | None = None
        self._unused: tuple[int, int] | None = None
        """Bounds of how many oks did not open the gate, but for a number that stands still."""
        self._sent: dict[int, int] = {}
        """The newest msg_no by camera number, when the PLC was last heard."""
        self._unheard: dict[int, int] = {}
        self._triggers: int | None = None
        self._told_ns: dict[int, int] = {}
        self._said: dict[str, int] = {}

    def tell(self, verdict: Verdict) -> None:
        camera, trigger = verdict.exposure.id.camera, verdict.exposure.part
        ok = verdict.outcome is Outcome.OK
        if trigger == 0:
            if ok:
                self._nameless_oks += 1
                self._told_ns.clear()  # which part it was, we cannot say
            return
        if trigger < self._newest.get(camera, 0):  # counted anew: by its numbers it means others
            kept = ((t, part) for t, part in self._parts.items() if camera not in part.ok)
            self._parts = OrderedDict(kept)
        self._newest[camera] = trigger
        part = self._parts.setdefault(trigger, _Part())
        before = self._passes(part)
        part.ok[camera] = ok and part.ok.get(camera, True)  # a reject is never taken back
        part.told_ns = verdict.decided_ns
        now = self._passes(part)
        self._oks += now - before
        self._oks_when_heard -= before and not now
        if part.ok.keys() == self._cameras:
            self._told_ns.pop(trigger, None)
        while len(self._parts) > REMEMBERED:
            self._parts.popitem(last=False)

    def part(self, told: PartTold, now_ns: int) -> list[Disagreement]:
        lost = 0 if self._triggers is None else max(0, told.triggers - self._triggers - 1)
        self._triggers = told.triggers
        if not self._nameless_oks and not self._shown(told.triggers, now_ns):
            self._told_ns[told.triggers] = now_ns
        unseen = [t for t, at_ns in self._told_ns.items() if now_ns - at_ns > UNSEEN_AFTER_NS]
        for trigger in unseen:
            del self._told_ns[trigger]
        return [*self._more("triggers_lost", lost), *self._more("part_unseen", len(unseen))]

    def messages(self, told: LineTold, sent: Mapping[int, int]) -> list[Disagreement]:
        """`sent`: the newest msg_no by camera number. A zero of the PLC's says nothing yet."""
        before, self._sent = self._sent, dict(sent)
        new = 0
        for number, heard in enumerate(told.last_msg_no, start=1):
            missing = max(0, before.get(number, 0) - heard) if heard else 0
            new += max(0, missing - self._unheard.get(number, 0))
            self._unheard[number] = missing
        return self._more("unheard", new)

    def line(self, told: LineTold) -> list[Disagreement]:
        before, self._heard = self._heard, told
        oks_before, self._oks_when_heard = self._oks_when_heard, self._oks
        if before is None or _counts_anew(before, told):
            self._unused = None
            return []
        # Parts called ok before the PLC's last word had their trigger before this one was written.
        least = oks_before - told.accepted - _under_way(told)
        most = self._oks + self._nameless_oks - told.accepted
        if self._unused is None:
            self._unused = least, most
            return []
        low, high = self._unused
        passed, not_passed = max(0, low - most), max(0, least - high)
        self._unused = max(least, low - passed), min(most, high + not_passed)
        return [
            *self._more("passed_without_ok", passed),
            *self._more("ok_not_passed", not_passed),
        ]

    def _passes(self, part: _Part) -> bool:
        return part.ok.keys() == self._cameras and all(part.ok.values())

    def _shown(self, trigger: int, now_ns: int) -> bool:
        """By every camera, and not under this number long ago, before the PLC counted anew."""
        part = self._parts.get(trigger)
        if part is None or part.ok.keys() != self._cameras:
            return False
        return now_ns - part.told_ns <= UNSEEN_AFTER_NS

    def _more(self, kind: str, parts: int) -> list[Disagreement]:
        if parts == 0:
            return []
        self._said[kind] = self._said.get(kind, 0) + parts
        return [Disagreement(kind, parts, self._said[kind])]


def _counts_anew(before: LineTold, now: LineTold) -> bool:
    return now.parts < before.parts or now.accepted < before.accepted


def _under_way(told: LineTold) -> int:
    """Parts between trigger and gate, and such as were taken off the belt there."""
    at_gate = told.accepted + told.rejected_defect + told.rejected_silent
    return max(0, told.parts - at_gate)
