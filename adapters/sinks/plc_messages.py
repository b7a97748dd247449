"""What the PLC and we say to each other, byte for byte. Pure functions; nothing here waits.

Binary messages have 32 bytes, naturally aligned, so that a PLC can lay a structure of its own over
them; byte 0 tells them apart. Counts go on in their low bits when they outgrow a field; times and
ratios stop at its largest value, since a small one would be a lie.
"""

import math
from struct import Struct
from typing import Annotated, Literal

import msgspec

from adapters.errors import MessageError
from adapters.ports import Beat, LineTold, Outcome, PartTold, Reason, Verdict

ByteOrder = Literal["little", "big"]

VERDICT_KIND = 17
BEAT_KIND = 18

OK = 1
NOT_OK = 2
UNINSPECTED = {
    Reason.LATE: 30,
    Reason.OVERLOAD: 31,
    Reason.CAMERA_GAP: 32,
    Reason.CORRUPT: 33,
    Reason.WORKER_RESTART: 34,
    Reason.SHUTDOWN: 35,
    Reason.NO_MODEL: 36,
    Reason.INCOMPLETE: 37,
    Reason.IMAGE_QUALITY: 38,
    Reason.INVALID_SCORE: 39,
    Reason.DAEMON_RESTART: 40,
    Reason.CHANGEOVER: 41,
}

ONLINE = 1 << 0
ERROR = 1 << 1
OVERRUN = 1 << 2

_U16 = 0xFFFF
_U32 = 0xFFFF_FFFF

# Lane mask and encoder count, the end of a verdict, are 0: no verdict of ours knows them.
_VERDICT = {"little": Struct("<4B4I3H6x"), "big": Struct(">4B4I3H6x")}
_BEAT = {"little": Struct("<2B2xI4x2I2H8x"), "big": Struct(">2B2xI4x2I2H8x")}
_PART = {"little": Struct("<2I"), "big": Struct(">2I")}

_encode = msgspec.json.Encoder().encode


def verdict(
    verdict: Verdict, *, camera: int, msg_no: int, flags: int, now_ns: int, order: ByteOrder
) -> bytes:
    """32 bytes. `camera` is the camera's number, 1 to 255; `now_ns` the monotonic time."""
    exposure = verdict.exposure
    return _VERDICT[order].pack(
        VERDICT_KIND,
        camera,
        result(verdict),
        flags,
        msg_no & _U32,
        exposure.id.epoch & _U32,
        exposure.id.sequence & _U32,
        exposure.part & _U32,
        _u16((now_ns - exposure.exposed_ns) // 1_000_000),
        _u16((exposure.deadline_ns - exposure.exposed_ns) // 1_000_000),
        thousandths(verdict.score, verdict.threshold),
    )


def verdict_json(verdict: Verdict, *, msg_no: int, now_ns: int) -> bytes:
    """The same for people and dashboards, by the names of the plant's events; no score is null."""
    exposure = verdict.exposure
    return _encode(
        {
            "event_id": str(exposure.id),
            "event_time_ms": exposure.wall_ns // 1_000_000,
            "line": exposure.id.line,
            "camera": exposure.id.camera,
            "msg_no": msg_no,
            "epoch": exposure.id.epoch,
            "sequence": exposure.id.sequence,
            "part_id": exposure.part,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "score": verdict.score,
            "threshold": verdict.threshold,
            "age_ms": (now_ns - exposure.exposed_ns) / 1e6,
            "deadline_ms": (exposure.deadline_ns - exposure.exposed_ns) / 1e6,
        }
    )


def result(verdict: Verdict) -> int:
    """OPC 40001-101 ResultEvaluation: 1 and 2, and a leading 3 for what was not decided."""
    if verdict.outcome is Outcome.OK:
        return OK
    if verdict.outcome is Outcome.DEFECT:
        return NOT_OK
    return UNINSPECTED[verdict.reason or Reason.NO_MODEL]


def thousandths(score: float | None, threshold: float | None) -> int:
    """The score by its threshold; 65535 where it is larger, or where there is no such ratio."""
    if score is None or not math.isfinite(score) or threshold is None or not threshold > 0:
        return _U16
    return _u16(1000 * (score / threshold))


def _u16(value: float) -> int:
    """Between 0 and 65535, which a NaN is too."""
    if value <= 0:
        return 0
    return round(value) if value < _U16 else _U16


def beat(beat: Beat, order: ByteOrder) -> bytes:
    """32 bytes."""
    return _BEAT[order].pack(
        BEAT_KIND,
        beat.state,
        beat.counter & _U32,
        beat.cameras_ok & _U32,
        beat.verdicts & _U32,
        _u16(beat.period_ms),
        _u16(beat.p99_ms),
    )


def part_told(payload: bytes, order: ByteOrder) -> PartTold:
    """Raises MessageError where it has not 8 bytes."""
    layout = _PART[order]
    if len(payload) != layout.size:
        raise MessageError("is no part", key="bytes", value=len(payload), expected="8")
    part, triggers = layout.unpack(payload)
    return PartTold(part, triggers)


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct):
    run: bool
    parts: _Count
    accepted: _Count
    rejected_defect: _Count
    rejected_silent: _Count
    last_msg_no: _Count | tuple[_Count, ...]
    recipe: str | int = ""


_decode_line = msgspec.json.Decoder(_Line).decode


def line_told(payload: bytes) -> LineTold:
    """Raises MessageError where it is not JSON or lacks a field."""
    try:
        line = _decode_line(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"is no line: {error}", expected="JSON as in the contract") from error
    numbers = line.last_msg_no
    return LineTold(
        run=line.run,
        recipe=str(line.recipe),
        parts=line.parts,
        accepted=line.accepted,
        rejected_defect=line.rejected_defect,
        rejected_silent=line.rejected_silent,
        last_msg_no=numbers if isinstance(numbers, tuple) else (numbers,),
    )
