"""The PLC's counts against ours: what the gate did must follow from what we said.

Pure bookkeeping on what is told, on the event loop. Parts between trigger and gate are allowed for,
and what may still be on its way must disagree twice in a row before it is said.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from adapters.ports import LineTold, Outcome, PartTold, Verdict

REMEMBERED = 4096  # parts
UNSEEN_AFTER_NS = 5_000_000_000
"""A part that the PLC told and that some camera did not show in so long never passed it."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    kind: str
    """`passed_without_ok`: the gate let more through than we called ok. `ok_not_passed`: less.
    `triggers_lost`: parts that the PLC counted and did not tell. `part_unseen`: parts it told that
    a camera never showed."""
    parts: int
    """How many are new."""
    in_all: int


@dataclass(frozen=True, slots=True)
class _Start:
    """Where both counts stood when the PLC was first heard, or began to count anew."""

    told: LineTold
    ok_parts: int


class Reconciliation:
    """A verdict sink that hears the PLC as well. What it returns is an alarm each."""

    def __init__(self, cameras: Collection[str]) -> None:
        self._cameras = frozenset(cameras)
        self._seen: OrderedDict[int, dict[str, Outcome]] = OrderedDict()
        self._ok_parts = 0
        """Parts that every camera called ok."""
        self._start: _Start | None = None
        self._last: LineTold | None = None
        self._not_passed = 0
        self._triggers: int | None = None
        self._told_ns: dict[int, int] = {}
        self._said: dict[str, int] = {}

    def tell(self, verdict: Verdict) -> None:
        trigger = verdict.exposure.part
        if trigger == 0:
            return
        seen = self._seen.setdefault(trigger, {})
        seen[verdict.exposure.id.camera] = verdict.outcome
        if seen.keys() == self._cameras:
            self._told_ns.pop(trigger, None)
            self._ok_parts += set(seen.values()) == {Outcome.OK}
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def part(self, told: PartTold, now_ns: int) -> list[Disagreement]:
        lost = 0 if self._triggers is None else max(0, told.triggers - self._triggers - 1)
        self._triggers = told.triggers
        if self._seen.get(told.triggers, {}).keys() != self._cameras:
            self._told_ns[told.triggers] = now_ns
        unseen = [t for t, at_ns in self._told_ns.items() if now_ns - at_ns > UNSEEN_AFTER_NS]
        for trigger in unseen:
            del self._told_ns[trigger]
        return [*self._more("triggers_lost", lost), *self._more("part_unseen", len(unseen))]

    def line(self, told: LineTold) -> list[Disagreement]:
        last, self._last = self._last, told
        if self._start is None or last is None or _counts_anew(last, told):
            self._start, self._not_passed = _Start(told, self._ok_parts), 0
            self._said.pop("passed_without_ok", None)
            self._said.pop("ok_not_passed", None)
            return []
        accepted = told.accepted - self._start.told.accepted
        ok = self._ok_parts - self._start.ok_parts
        # A part that was under way at the start may have got its ok before it.
        passed = max(0, accepted - ok - _under_way(self._start.told))
        before, self._not_passed = self._not_passed, max(0, ok - accepted - _under_way(told))
        return [
            *self._up_to("passed_without_ok", passed),
            *self._up_to("ok_not_passed", min(before, self._not_passed)),
        ]

    def _up_to(self, kind: str, in_all: int) -> list[Disagreement]:
        return self._more(kind, in_all - self._said.get(kind, 0))

    def _more(self, kind: str, parts: int) -> list[Disagreement]:
        if parts <= 0:
            return []
        self._said[kind] = self._said.get(kind, 0) + parts
        return [Disagreement(kind, parts, self._said[kind])]


def _counts_anew(before: LineTold, now: LineTold) -> bool:
    return now.parts < before.parts or now.accepted < before.accepted


def _under_way(told: LineTold) -> int:
    """Parts between trigger and gate."""
    return told.parts - told.accepted - told.rejected_defect - told.rejected_silent
