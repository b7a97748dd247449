"""The PLC at the reject gate, as a plain class: what deploy/plc/FB_ClearlineGate.st does, written
anew from the contract, so that each can be held against the other.

It knows nothing of the daemon and reads the bytes by itself. Times are ms on any clock that does
not go back; they need not wrap, and nothing is scanned: what ran out is seen when it is asked for.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

SIZE = 32
VERDICT, BEAT = 17, 18
OK, NOT_OK, LATE = 1, 2, 30
ERROR, OVERRUN, TEST = 1 << 1, 1 << 2, 1 << 3

_VERDICT = "BBBBIIIIHHHHI"
_BEAT = "BB2xI4xIIHH8x"
_SLOTS = 64
_FRAMES_MAX = 255
_LATE_IN_ROW = 3
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Settings:
    cameras: int = 1
    frames_per_part: int = 1
    """Of each camera; outside of 1..255 the gate stays shut."""
    part_timeout_ms: int = 300
    watchdog_ms: int = 600
    big_endian: bool = False
    match_by_time: bool = False
    half_pitch_ms: int = 0

    @property
    def byte_order(self) -> str:
        """As `struct` writes it."""
        return ">" if self.big_endian else "<"


@dataclass(frozen=True, slots=True)
class VerdictMessage:
    camera: int
    result: int
    bits: int
    msg_no: int
    epoch: int
    inspection_id: int
    part: int
    age_ms: int

    @staticmethod
    def read(payload: bytes, byte_order: str) -> "VerdictMessage | None":
        """None: not 32 bytes of kind 17."""
        if len(payload) != SIZE or payload[0] != VERDICT:
            return None
        return VerdictMessage(*struct.unpack(byte_order + _VERDICT, payload)[1:9])

    @property
    def clean_ok(self) -> bool:
        return self.result == OK and not self.bits & (ERROR | TEST)


@dataclass(slots=True)
class _Part:
    taken: int
    """How many slots were taken before this one."""
    triggered_ms: int
    rejected: bool = False
    defect: bool = False
    oks: Counter[int] = field(default_factory=Counter)
    """Fresh, clean ones in time, by camera number: one per frame."""


@dataclass(slots=True)
class _Camera:
    epoch: int
    msg_no: int
    inspection_id: int
    late_in_row: int = 0


class Gate:
    """Every method is one event at its moment; no thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts = self.accepted = self.rejected_defect = self.rejected_silent = self.lost = 0
        self.unknown = 0
        self._pending: dict[int, _Part] = {}
        self._taken = 0
        self._cameras: dict[int, _Camera] = {}
        self._armed = self._latched = False
        self._beat_ms: int | None = None
        self._counter = 0

    @property
    def last_msg_no(self) -> tuple[int, ...]:
        """By camera number; 0 for one that was never heard."""
        heard = (self._cameras.get(n) for n in range(1, self.settings.cameras + 1))
        return tuple(camera.msg_no if camera else 0 for camera in heard)

    def armed(self, now_ms: int) -> bool:
        return self._armed and not self._silent(now_ms)

    def alarm(self, now_ms: int) -> bool:
        return self._latched or not self.armed(now_ms)

    def acknowledge(self) -> None:
        self._latched = False

    def trigger(self, now_ms: int, part: int) -> None:
        """The cameras expose this part."""
        self.parts += 1
        if part in self._pending:
            self._pending[part].rejected = True
        elif part != 0 or self.settings.match_by_time:
            self._pending[part] = _Part(self._taken, now_ms)
            self._taken += 1
            oldest = self._taken - _SLOTS
            self._pending = {k: p for k, p in self._pending.items() if p.taken >= oldest}

    def message(self, now_ms: int, payload: bytes) -> None:
        """What came over MQTT, whatever it is."""
        verdict = VerdictMessage.read(payload, self.settings.byte_order)
        if verdict is not None:
            if 1 <= verdict.camera <= self.settings.cameras and self._is_new(verdict):
                self._watch(verdict)
                self._judge(now_ms, verdict)
        elif len(payload) == SIZE and payload[0] == BEAT:
            _, _, counter, _, _, period_ms, _ = struct.unpack(
                self.settings.byte_order + _BEAT, payload
            )
            self._beat(now_ms, counter, period_ms)

    def at_gate(self, now_ms: int, part: int) -> bool:
        """Whether the gate opens for it."""
        slot = self._pending.pop(part, None)
        passes = slot is not None and self.armed(now_ms) and self._is_good(slot)
        if passes:
            self.accepted += 1
        elif slot is not None and slot.defect:
            self.rejected_defect += 1
        elif slot is not None:
            self.rejected_silent += 1
        else:
            self.unknown += 1
        return passes

    def _is_good(self, part: _Part) -> bool:
        frames, cameras = self.settings.frames_per_part, range(1, self.settings.cameras + 1)
        if part.rejected or not 1 <= frames <= _FRAMES_MAX:
            return False
        return all(part.oks[n] >= frames for n in cameras)

    def _silent(self, now_ms: int) -> bool:
        return self._beat_ms is None or now_ms - self._beat_ms >= self.settings.watchdog_ms

    def _beat(self, now_ms: int, counter: int, period_ms: int) -> None:
        if counter == self._counter or period_ms == 0:
            return
        if self._beat_ms is None or self._silent(now_ms):
            self._armed = False  # the first of two
        elif 2 * (now_ms - self._beat_ms) >= period_ms:
            self._armed = True
        self._beat_ms, self._counter = now_ms, counter

    def _is_new(self, verdict: VerdictMessage) -> bool:
        """Of the newest epoch and not heard before; takes note of it. An older epoch alarms."""
        camera = self._cameras.get(verdict.camera)
        if camera is None or verdict.epoch > camera.epoch:
            if camera is not None:
                for part in self._pending.values():
                    part.rejected = True
            late = camera.late_in_row if camera else 0
            self._cameras[verdict.camera] = _Camera(
                verdict.epoch, verdict.msg_no, verdict.inspection_id, late
            )
            return True
        if verdict.epoch < camera.epoch:
            self._latched = True
            return False
        if gap := _ahead(verdict.msg_no, camera.msg_no):
            self.lost = (self.lost + gap - 1) % _WRAP
            camera.msg_no = verdict.msg_no
        if not _ahead(verdict.inspection_id, camera.inspection_id):
            return False
        camera.inspection_id = verdict.inspection_id
        return True

    def _watch(self, verdict: VerdictMessage) -> None:
        camera = self._cameras[verdict.camera]
        camera.late_in_row = camera.late_in_row + 1 if verdict.result == LATE else 0
        if camera.late_in_row >= _LATE_IN_ROW or verdict.bits & OVERRUN:
            self._latched = True

    def _judge(self, now_ms: int, verdict: VerdictMessage) -> None:
        part = self._part_of(now_ms, verdict)
        if part is None:
            return
        in_time = now_ms - part.triggered_ms < self.settings.part_timeout_ms
        if verdict.clean_ok and in_time:
            part.oks[verdict.camera] += 1
        else:
            part.rejected = True
        if verdict.result == NOT_OK:
            part.defect = True

    def _part_of(self, now_ms: int, verdict: VerdictMessage) -> _Part | None:
        if verdict.part:
            return self._pending.get(verdict.part)
        if not self.settings.match_by_time:
            return None
        exposed_ms = now_ms - verdict.age_ms
        near = [
            part
            for part in self._pending.values()
            if abs(part.triggered_ms - exposed_ms) <= self.settings.half_pitch_ms
        ]
        return near[0] if len(near) == 1 else None


def _ahead(number: int, of: int) -> int:
    """By how much, where both wrap at 2^32; 0 where it is not."""
    difference = (number - of) % _WRAP
    return difference if difference < _WRAP // 2 else 0
