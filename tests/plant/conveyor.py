"""The world around the gate: parts at a pitch, which pass the cameras and later the gate.

The caller hands in the clock (CLOCK_MONOTONIC in ns where a real daemon is on the other side) and
the messages, both in their order. What the gate was entitled to open for is recorded here from
the raw messages alone (neither Error nor Test, and result 1), whatever the gate makes of them.
Verdicts without a part number are nobody's here.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from plant.plc import Gate


@dataclass(frozen=True, slots=True)
class Tally:
    passed_defective: tuple[int, ...]
    """Parts that passed and are defective."""
    passed_without_ok: tuple[int, ...]
    """Parts that passed though not every camera had said a fresh ok for each frame of them."""
    passed: int
    rejected: int
    lost: int
    """Messages that the gate missed, by the gaps in their numbers."""


class Conveyor:
    """Parts 1, 2, …: part k is exposed at `began_ns + (k - 1) * period_ns`, without end."""

    def __init__(
        self,
        gate: Gate,
        began_ns: int,
        period_ns: int,
        travel_ns: int,
        truth: Callable[[int], bool],
    ) -> None:
        """`travel_ns` from trigger to gate; `truth`: whether a part is defective."""
        self._gate, self._truth = gate, truth
        self._began_ns, self._period_ns, self._travel_ns = began_ns, period_ns, travel_ns
        self._triggered = 0
        self._fresh_ok: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        """By part: camera number and inspection_id, so that the same again is one."""
        self._without_ok: list[int] = []
        self.decisions: dict[int, bool] = {}
        """By part: whether it passed."""

    def advance(self, now_ns: int) -> None:
        """Triggers and gate events that are due, in their order, each at its own moment."""
        while True:
            triggers_ns = self._exposed_ns(self._triggered + 1)
            gates_ns = self._exposed_ns(len(self.decisions) + 1) + self._travel_ns
            if min(triggers_ns, gates_ns) > now_ns:
                return
            if triggers_ns <= gates_ns:
                self._triggered += 1
                self._gate.trigger(_ms(triggers_ns), self._triggered)
            else:
                self._reach_gate(gates_ns, len(self.decisions) + 1)

    def message(self, now_ns: int, payload: bytes) -> None:
        """Heard at that moment, after everything that was due before it."""
        self.advance(now_ns)
        if len(payload) == 32 and payload[0] == 17 and payload[2] == 1 and not payload[3] & 0b1010:
            inspection_id, part = struct.unpack_from(
                self._gate.settings.byte_order + "II", payload, 12
            )
            if self._is_fresh(part, now_ns):
                self._fresh_ok[part].add((payload[1], inspection_id))
        self._gate.message(_ms(now_ns), payload)

    def tally(self) -> Tally:
        passed = [part for part, opened in self.decisions.items() if opened]
        return Tally(
            passed_defective=tuple(part for part in passed if self._truth(part)),
            passed_without_ok=tuple(self._without_ok),
            passed=len(passed),
            rejected=len(self.decisions) - len(passed),
            lost=self._gate.lost,
        )

    def _reach_gate(self, now_ns: int, part: int) -> None:
        opened = self.decisions[part] = self._gate.at_gate(_ms(now_ns), part)
        oks = Counter(camera for camera, _ in self._fresh_ok.pop(part, set()))
        plc = self._gate.settings
        if opened and any(oks[n] < plc.frames_per_part for n in range(1, plc.cameras + 1)):
            self._without_ok.append(part)

    def _is_fresh(self, part: int, now_ns: int) -> bool:
        """Between its trigger and its gate, and its time not yet over."""
        under_way = len(self.decisions) < part <= self._triggered
        since_ms = _ms(now_ns) - _ms(self._exposed_ns(part))
        return under_way and since_ms < self._gate.settings.part_timeout_ms

    def _exposed_ns(self, part: int) -> int:
        return self._began_ns + (part - 1) * self._period_ns


def _ms(ns: int) -> int:
    return ns // 1_000_000
