"""The function block for the PLC, held against its twin in Python, scan by scan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import blark
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plant.messages import beat, verdict
from plant.plc import ERROR, LATE, NOT_OK, OK, OVERRUN, TEST, Gate, Settings
from plant.structured_text import FunctionBlock, Instance

PLC = Path(__file__).parents[2] / "deploy" / "plc"
WRAP = 1 << 32


@dataclass(frozen=True)
class Says:
    """A verdict, told by how it differs from what would come next."""

    camera: int = 1
    result: int = OK
    bits: int = 1
    msg_step: int = 1
    id_step: int = 1
    epoch_step: int = 0
    back: int | None = 0
    """Parts since; None for part_id 0."""
    age_ms: int = 20


@dataclass(frozen=True)
class Beats:
    step: int = 1
    period_ms: int = 200


@dataclass(frozen=True)
class Scan:
    """What happens in one scan, in this order; parts as in `Says.back`, a new one is -1."""

    wait_ms: int = 10
    acknowledge: bool = False
    trigger: int | None = None
    message: Says | Beats | bytes | None = None
    cut: int = 32
    gate: int | None = None


@cache
def block(temporaries_bits: int) -> FunctionBlock:
    source, types = (PLC / f"{name}.st" for name in ("FB_ClearlineGate", "types"))
    return FunctionBlock(source.read_text(), types.read_text(), temporaries_bits=temporaries_bits)


class Both:
    def __init__(self, plc: Settings, began_ms: int, first: int, temporaries_bits: int) -> None:
        self.plc, self.now, self.last, self.counter = plc, began_ms, 100, 0
        self.heard = {n: [first, first, 7] for n in range(10)}  # msg_no, inspection_id, epoch
        self.twin = Gate(plc)
        self.block = Instance(block(temporaries_bits))
        self.block.call(
            CameraCount=plc.cameras, PartTimeout=plc.part_timeout_ms, BigEndian=plc.big_endian,
            WatchdogTime=plc.watchdog_ms, MatchByTime=plc.match_by_time,
            HalfPitch=plc.half_pitch_ms, FramesPerPart=plc.frames_per_part, Now=began_ms % WRAP,
        )  # fmt: skip

    def scan(self, scan: Scan) -> None:
        self.now += scan.wait_ms
        self.last += scan.trigger == -1
        payload = self._payload(scan)
        trigger, gate = self._part(scan.trigger), self._part(scan.gate)
        opened = False
        if scan.acknowledge:
            self.twin.acknowledge()
        if trigger is not None:
            self.twin.trigger(self.now, trigger)
        if payload is not None:
            self.twin.message(self.now, payload)
        if gate is not None:
            opened = self.twin.at_gate(self.now, gate)
        self.block.call(
            Now=self.now % WRAP, Acknowledge=scan.acknowledge, NewMessage=payload is not None,
            Message=(payload or b"")[:32].ljust(32, b"\xff"), MessageLength=len(payload or b""),
            Trigger=trigger is not None, TriggerPart=trigger or 0,
            AtGate=gate is not None, GatePart=gate or 0,
        )  # fmt: skip
        assert self._block_says() == self._twin_says(opened)
        self.block.call(Acknowledge=False, NewMessage=False, Trigger=False, AtGate=False)
        assert self._block_says() == self._twin_says(False)

    def _part(self, back: int | None) -> int | None:
        """One that is further back than any is part 0."""
        return None if back is None else max(0, self.last - max(back, 0))

    def _payload(self, scan: Scan) -> bytes | None:
        said, order = scan.message, self.plc.byte_order
        if isinstance(said, Beats):
            self.counter = (self.counter + said.step) % WRAP
            return beat(self.counter, period_ms=said.period_ms, order=order)[: scan.cut]
        if isinstance(said, Says):
            heard = self.heard[said.camera]
            steps = (said.msg_step, said.id_step, said.epoch_step)
            heard[:] = [(n + step) % WRAP for n, step in zip(heard, steps, strict=True)]
            return verdict(
                heard[1], self._part(said.back) or 0, camera=said.camera, result=said.result,
                bits=said.bits, epoch=heard[2], msg_no=heard[0], age_ms=said.age_ms, order=order,
            )[: scan.cut]  # fmt: skip
        return said

    def _block_says(self) -> tuple[object, ...]:
        v = self.block.variables
        heard = tuple(v.LastMsgNo[n] for n in range(1, self.plc.cameras + 1))
        counts = (v.Parts, v.Accepted, v.RejectedDefect, v.RejectedSilent, v.Unknown, v.Lost)
        return v.GateOpen, v.Alarm, counts, heard

    def _twin_says(self, opened: bool) -> tuple[object, ...]:
        t = self.twin
        counts = (t.parts, t.accepted, t.rejected_defect, t.rejected_silent, t.unknown, t.lost)
        return opened, t.alarm(self.now), counts, t.last_msg_no


def part_that_passes(
    beat_ms: int, verdict_ms: int, gate_ms: int, cameras: int, back: int | None, frames: int = 1
) -> list[Scan]:
    """If these waits let it."""
    said = [Scan(0, message=Says(camera=n, back=back)) for n in range(1, cameras + 1)] * frames
    said[0] = replace(said[0], wait_ms=verdict_ms)
    beats = [Scan(message=Beats()), Scan(beat_ms, message=Beats())]
    return [*beats, Scan(0, trigger=-1), *said, Scan(gate_ms, gate=0)]


def mostly(usual: object, *others: object) -> st.SearchStrategy:
    return st.sampled_from([usual] * (3 * len(others)) + list(others))


off = {
    "camera": st.sampled_from([0, 2, 3, 4, 9]),
    "result": st.sampled_from([0, NOT_OK, LATE, 31, 3]),
    "bits": st.sampled_from([0, ERROR, OVERRUN, TEST, 0xF5, 0x10]),
    "msg_step": st.sampled_from([0, 2, 5, -1, 1 << 31]),
    "id_step": st.sampled_from([0, 3, -1, 1 << 31, (1 << 31) - 1]),
    "epoch_step": st.sampled_from([1, -1]),
    "back": st.sampled_from([1, 2, None, 64, 200]),
    "age_ms": st.sampled_from([0, 10, 30, 40, 50, 65535]),
}
says = st.one_of(st.builds(Says, **{name: values}) for name, values in off.items()) | st.builds(
    Says, **off
)
beats = st.builds(Beats, step=mostly(1, 0, -1, 300), period_ms=mostly(200, 0, 1, 201, 51200))
edges = st.sampled_from([0, 9, 10, 11, 39, 40, 99, 100, 101, 249, 250, 299, 300, 599, 600])
waits = edges | st.integers(0, 900)
messages = st.one_of(says, says, says, beats, st.binary(max_size=40))
triggers = st.sampled_from([-1, 0, 0, 1, 200])
gates = mostly(0, 1, 63, 200)
one_thing = st.one_of(
    st.builds(Scan, waits),
    st.builds(Scan, mostly(0, 10), acknowledge=st.just(True)),
    st.builds(Scan, mostly(0, 10), trigger=triggers),
    st.builds(Scan, mostly(0, 10), message=messages, cut=mostly(32, 31, 0)),
    st.builds(Scan, mostly(0, 10), message=says),
    st.builds(Scan, mostly(0, 10), gate=gates),
)
everything = st.builds(Scan, waits, st.booleans(), triggers, messages, gate=gates)
one_scan = st.one_of(one_thing, one_thing, one_thing, everything)
passes = st.builds(
    part_that_passes, beat_ms=mostly(200, 99, 100, 101, 249, 250, 599, 600),
    verdict_ms=mostly(10, 0, 39, 40, 299, 300), gate_ms=mostly(10, 0, 239, 240, 249, 250, 589, 590),
    cameras=st.sampled_from([1, 1, 3]), back=mostly(0, None), frames=st.sampled_from([1, 1, 2, 3]),
)  # fmt: skip
spoilt = st.builds(
    lambda scans, at, other: [*scans[:at], other, *scans[at:]], passes, st.integers(2, 6), one_scan
)
bursts = st.builds(
    lambda wait_ms, n, said: [Scan(wait_ms, message=said), *[Scan(0, message=said)] * n],
    edges, st.integers(1, 4), st.builds(Beats, period_ms=mostly(200, 0, 1)),
)  # fmt: skip
lates = st.integers(2, 4).map(lambda n: [Scan(message=Says(result=LATE))] * n)
queues = st.integers(60, 66).map(lambda n: [Scan(0, trigger=-1)] * n)
rarely = one_scan.map(lambda scan: [scan]) | bursts | lates | queues
scans = st.lists(st.one_of(passes, passes, spoilt, spoilt, rarely), min_size=3, max_size=12).map(
    lambda groups: [scan for group in groups for scan in group]
)
plcs = st.builds(
    Settings,
    cameras=mostly(1, 3),
    frames_per_part=st.sampled_from([1, 1, 1, 2, 2, 0]),
    part_timeout_ms=mostly(300, 40),
    watchdog_ms=mostly(600, 250),
    big_endian=st.booleans(),
    match_by_time=st.booleans(),
    half_pitch_ms=st.sampled_from([0, 10, 40]),
)
beginnings = st.sampled_from([0, WRAP - 1]) | st.integers(WRAP - 3000, WRAP + 10)


def test_the_structured_text_parses() -> None:
    names = []
    for path in sorted(PLC.glob("*.st")):
        parsed = blark.parse_source_code(path.read_text(), fn=path).transform()
        names += [str(getattr(item, "declaration", item).name) for item in parsed.items]
    assert names == ["FB_ClearlineGate", "ST_ClearlineSlot", "ST_ClearlineCamera"]


RIGHT = part_that_passes(beat_ms=200, verdict_ms=10, gate_ms=10, cameras=1, back=0)
STRIPS = part_that_passes(beat_ms=200, verdict_ms=10, gate_ms=10, cameras=1, back=0, frames=2)
LATE_ONE = Scan(message=Says(result=LATE))
EDGES = {
    "beats half a period apart": part_that_passes(100, 10, 10, 1, 0),
    "exposed half a pitch away": part_that_passes(200, 10, 10, 1, None),
    "an ok when the time is over": part_that_passes(200, 300, 10, 1, 0),
    "the watchdog just out": part_that_passes(200, 10, 590, 1, 0),
    "a frame for each of two": STRIPS,
    "a frame more than two": [*STRIPS[:-1], STRIPS[-2], STRIPS[-1]],
    "a frame told twice": [*STRIPS[:-2], Scan(message=Says(id_step=0)), STRIPS[-1]],
    "a frame that was found bad": [*STRIPS[:-1], Scan(message=Says(result=NOT_OK)), STRIPS[-1]],
    "a frame of a part and one of the next": [*STRIPS[:-2], Scan(0, trigger=-1), *STRIPS[-2:]],
    "a slot taken again": [*RIGHT, *[Scan(0, trigger=-1)] * 64, RIGHT[-1]],
    "an older epoch": [*RIGHT, Scan(message=Says(epoch_step=-1, back=None)), *RIGHT],
    "a new epoch": [*RIGHT, *RIGHT[:-1], Scan(message=Says(epoch_step=1, back=None)), RIGHT[-1]],
    "an id as far behind as ahead": [*RIGHT, Scan(message=Says(id_step=1 << 31)), *RIGHT],
    "an inspection again": [*RIGHT, *RIGHT[:3], Scan(message=Says(id_step=0)), RIGHT[-1]],
    "a msg_no as far behind as ahead": [*RIGHT, Scan(message=Says(msg_step=1 << 31))],
    "a fourth late": [*RIGHT, *[LATE_ONE] * 3, Scan(acknowledge=True), LATE_ONE],
    "a trigger twice, then ok": [*RIGHT[:3], Scan(trigger=0), *RIGHT[3:]],
    "a trigger twice, then NotOK": [
        *RIGHT[:3],
        Scan(trigger=0),
        Scan(message=Says(result=NOT_OK)),
        RIGHT[-1],
    ],
}


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("scans", EDGES.values(), ids=EDGES)
def test_the_block_agrees_with_its_twin_at_the_edges(scans: Sequence[Scan], frames: int) -> None:
    plc = Settings(
        frames_per_part=frames, part_timeout_ms=300, match_by_time=True, half_pitch_ms=10
    )
    both = Both(plc, WRAP - 300, 0, 64)
    for scan in scans:
        both.scan(scan)


@pytest.mark.parametrize("temporaries_bits", [32, 64])
@settings(deadline=None, max_examples=200)
@given(plc=plcs, began_ms=beginnings, first=st.sampled_from([0, 5, WRAP - 3]), scans=scans)
def test_the_block_does_what_its_twin_does(
    temporaries_bits: int, plc: Settings, began_ms: int, first: int, scans: Sequence[Scan]
) -> None:
    both = Both(plc, began_ms, first, temporaries_bits)
    for scan in scans:
        both.scan(scan)


def test_an_input_that_stays_true_is_one_event_and_a_change_of_part_another() -> None:
    plc = Instance(block(64))
    plc.call(CameraCount=1, PartTimeout=300)
    for part in (1, 1, 1, 2, 2):
        plc.call(Trigger=True, TriggerPart=part)
    assert plc.variables.Parts == 2
    plc.call(NewMessage=True, MessageLength=32, Message=beat(1), Now=100)
    plc.call(NewMessage=True, MessageLength=32, Message=beat(2), Now=250)
    plc.call(NewMessage=True, MessageLength=32, Message=verdict(1, 1), Now=260)
    opened = []
    for part in (1, 1, 2):
        plc.call(NewMessage=False, AtGate=True, GatePart=part)
        opened.append(plc.variables.GateOpen)
    assert opened == [True, True, False]
    assert (plc.variables.Accepted, plc.variables.RejectedSilent) == (1, 1)


@pytest.mark.parametrize("cameras", [-1, 0, 1, 8, 9])
def test_an_impossible_number_of_cameras_keeps_the_gate_shut(cameras: int) -> None:
    plc = Instance(block(64))
    plc.call(CameraCount=cameras, PartTimeout=300, Trigger=True, TriggerPart=1)
    plc.call(NewMessage=True, MessageLength=32, Message=beat(1))
    plc.call(Message=beat(2), Now=200)
    for n in range(1, 10):
        plc.call(Message=verdict(1, 1, camera=n))
    plc.call(NewMessage=False, AtGate=True, GatePart=1)
    assert plc.variables.GateOpen is (cameras in (1, 8))


@pytest.mark.parametrize(
    ("wanted", "oks", "opens"),
    [
        (-1, 2, False),
        (0, 2, False),
        (1, 1, True),
        (2, 1, False),
        (2, 2, True),
        (2, 3, True),
        (255, 254, False),
        (255, 255, True),
        (256, 256, False),
    ],
)
def test_the_gate_wants_an_ok_for_each_frame_of_a_possible_number(
    wanted: int, oks: int, opens: bool
) -> None:
    plc, twin = Instance(block(64)), Gate(Settings(frames_per_part=wanted))
    plc.call(CameraCount=1, FramesPerPart=wanted, PartTimeout=300, Trigger=True, TriggerPart=1)
    twin.trigger(0, 1)
    for message in (beat(1), *(verdict(n, 1) for n in range(1, oks + 1))):
        plc.call(NewMessage=True, MessageLength=32, Message=message)
        twin.message(0, message)
    plc.call(Message=beat(2), Now=200)
    twin.message(200, beat(2))
    plc.call(NewMessage=False, AtGate=True, GatePart=1)
    assert plc.variables.GateOpen is twin.at_gate(200, 1) is opens


def test_a_part_has_one_frame_where_the_input_is_not_wired() -> None:
    assert Instance(block(64)).variables.FramesPerPart == Settings().frames_per_part == 1
