"""The PLC as the judge of a test that has no broker: what was told, at its moments, goes to the
gate's twin in the contract's bytes, and the gate decides about each part when it has travelled."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from plant.messages import beat
from plant.plc import Gate, Settings

from adapters.ports import Outcome, Verdict
from adapters.sinks import plc_messages

BEAT_MS = 200
TRAVEL_MS = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    passed: int
    rejected: int
    without_ok: tuple[int, ...]
    """Parts that passed though not every camera had called each of their frames ok by then."""
    bad: tuple[int, ...]
    """Parts that passed and must not."""


def judge(
    told: Sequence[tuple[int, Verdict]],
    cameras: Mapping[str, int],
    *,
    frames_per_part: int = 1,
    bad: Set[int] = frozenset(),
) -> Judged:
    """`told`: when (monotonic ns) and what, in that order. `cameras`: their numbers. A part comes
    by the cameras with its first exposure, and to the gate TRAVEL_MS later."""
    gate = Gate(Settings(len(cameras), frames_per_part, part_timeout_ms=TRAVEL_MS - 50))
    numbers, first_ms = Counter[str](), dict[int, float]()
    for _, verdict in told:
        part, exposed_ms = verdict.exposure.part, verdict.exposure.exposed_ns / 1e6
        first_ms[part] = min(first_ms.get(part, exposed_ms), exposed_ms)
    moments: list[tuple[float, int, int | Verdict]] = []
    moments += [(ms, 0, part) for part, ms in first_ms.items()]
    moments += [(at_ns / 1e6, 1, verdict) for at_ns, verdict in told]
    moments += [(ms + TRAVEL_MS, 2, part) for part, ms in first_ms.items()]
    begin_ms, end_ms = min(m[0] for m in moments), max(m[0] for m in moments)
    beats = range(int(begin_ms) - 5 * BEAT_MS, int(end_ms), BEAT_MS)
    moments += [(float(ms), 3, k) for k, ms in enumerate(beats, start=1)]

    oks: defaultdict[int, Counter[str]] = defaultdict(Counter)
    passed: list[int] = []
    without_ok: list[int] = []
    for ms, kind, what in sorted(moments, key=lambda m: m[:2]):
        if isinstance(what, Verdict):
            camera = what.exposure.id.camera
            numbers[camera] += 1
            payload = plc_messages.verdict(
                what, camera=cameras[camera], msg_no=numbers[camera], flags=plc_messages.ONLINE,
                now_ns=int(ms * 1e6), order="little",
            )  # fmt: skip
            oks[what.exposure.part][camera] += what.outcome is Outcome.OK
            gate.message(int(ms), payload)
        elif kind == 3:
            gate.message(int(ms), beat(what))
        elif kind == 0:
            gate.trigger(int(ms), what)
        elif gate.at_gate(int(ms), what):
            passed.append(what)
            if any(oks[what][camera] < frames_per_part for camera in cameras):
                without_ok.append(what)
    return Judged(
        len(passed), len(first_ms) - len(passed), tuple(without_ok),
        tuple(part for part in passed if part in bad),
    )  # fmt: skip
