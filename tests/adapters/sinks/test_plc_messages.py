"""The bytes of the contract, against a transcription of its table that shares no code with us."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import MessageError
from adapters.ports import (
    Beat,
    Exposure,
    FrameId,
    LineTold,
    MachineState,
    Outcome,
    PartTold,
    Reason,
    Verdict,
)
from adapters.sinks import plc_messages

MS = 1_000_000
ORDERS = ("little", "big")

# offset, bytes, name
VERDICT_TABLE = (
    (0, 1, "kind"), (1, 1, "camera"), (2, 1, "result"), (3, 1, "bits"), (4, 4, "msg_no"),
    (8, 4, "epoch"), (12, 4, "inspection_id"), (16, 4, "part_id"), (20, 2, "age_ms"),
    (22, 2, "deadline_ms"), (24, 2, "score"), (26, 2, "lane_mask"), (28, 4, "encoder"),
)  # fmt: skip
BEAT_TABLE = (
    (0, 1, "kind"), (1, 1, "state"), (2, 2, "zero_a"), (4, 4, "counter"), (8, 4, "zero_b"),
    (12, 4, "cameras_ok"), (16, 4, "verdicts_sent"), (20, 2, "period_ms"), (22, 2, "p99_ms"),
    (24, 8, "zero_c"),
)  # fmt: skip
RESULTS = {
    "late": 30, "overload": 31, "camera_gap": 32, "corrupt": 33, "worker_restart": 34,
    "shutdown": 35, "no_model": 36, "incomplete": 37, "image_quality": 38, "invalid_score": 39,
    "daemon_restart": 40, "changeover": 41,
}  # fmt: skip
LINE = {
    "run": True, "recipe": "foil-a", "parts": 12, "accepted": 10, "rejected_defect": 1,
    "rejected_silent": 1, "last_msg_no": [12, 12],
}  # fmt: skip


def read(payload: bytes, table: tuple[tuple[int, int, str], ...], order: str) -> dict[str, int]:
    assert len(payload) == 32 == sum(size for _, size, _ in table)
    return {name: int.from_bytes(payload[at : at + size], order) for at, size, name in table}


def capped(value: float) -> int:
    return max(0, min(65535, int(value)))


whole = st.integers(0, 2**63)
scores = st.none() | st.floats() | st.floats(0, 10)
orders = st.sampled_from(ORDERS)
outcomes = st.sampled_from(
    [(Outcome.OK, None), (Outcome.DEFECT, None), *((Outcome.UNINSPECTED, r) for r in Reason)]
)


@given(
    outcome=outcomes, score=scores, threshold=scores, order=orders, camera=st.integers(1, 255),
    msg_no=whole, epoch=whole, sequence=whole, part=whole, flags=st.integers(0, 255),
    age_ms=st.integers(-100, 10**6), deadline_ms=st.integers(-100, 10**6),
)  # fmt: skip
def test_every_verdict_reads_back_by_the_table(
    outcome: tuple[Outcome, Reason | None], score: float | None, threshold: float | None,
    order: str, camera: int, msg_no: int, epoch: int, sequence: int, part: int, flags: int,
    age_ms: int, deadline_ms: int,
) -> None:  # fmt: skip
    exposed = 10**15
    frame = FrameId("line", "left", epoch, sequence)
    exposure = Exposure(frame, exposed, 0, exposed + deadline_ms * MS, part)
    verdict = Verdict(exposure, *outcome, score, threshold, exposed)
    payload = plc_messages.verdict(
        verdict, camera=camera, msg_no=msg_no, flags=flags, now_ns=exposed + age_ms * MS,
        order=order,
    )  # fmt: skip
    got = read(payload, VERDICT_TABLE, order)
    ratio = got.pop("score")
    assert got == {
        "kind": 17, "camera": camera, "bits": flags, "lane_mask": 0, "encoder": 0,
        "result": {"ok": 1, "defect": 2}.get(outcome[0]) or RESULTS[outcome[1]],
        "msg_no": msg_no % 2**32, "epoch": epoch % 2**32, "inspection_id": sequence % 2**32,
        "part_id": part % 2**32, "age_ms": capped(age_ms), "deadline_ms": capped(deadline_ms),
    }  # fmt: skip
    if score is None or threshold is None or not math.isfinite(score) or not threshold > 0:
        assert ratio == 65535
    else:
        assert abs(ratio - max(0, min(65535, 1000 * (score / threshold)))) <= 0.5


def test_every_reason_has_its_code() -> None:
    assert {reason.value: code for reason, code in plc_messages.UNINSPECTED.items()} == RESULTS
    assert set(RESULTS) == {reason.value for reason in Reason}


@pytest.mark.parametrize(
    ("score", "threshold", "thousandths"),
    [(0.5, 0.5, 1000), (0.6045, 0.6045, 1000), (0.25, 1.0, 250), (70.0, 1.0, 65535),
     (math.nan, 0.5, 65535), (math.inf, 0.5, 65535), (-math.inf, 0.5, 65535), (None, 0.5, 65535),
     (0.5, None, 65535), (0.5, 0.0, 65535), (0.0, 0.0, 65535), (0.5, math.nan, 65535),
     (1e308, 1e-308, 65535), (-0.5, 0.5, 0)],
)  # fmt: skip
def test_a_score_without_a_ratio_is_the_largest(
    score: float | None, threshold: float | None, thousandths: int
) -> None:
    assert plc_messages.thousandths(score, threshold) == thousandths


@given(
    state=st.sampled_from(MachineState), counter=whole, cameras=whole, verdicts=whole,
    period=whole, p99=st.floats(), order=orders,
)  # fmt: skip
def test_every_beat_reads_back_by_the_table(
    state: MachineState, counter: int, cameras: int, verdicts: int, period: int, p99: float,
    order: str,
) -> None:  # fmt: skip
    beat = Beat(state, counter, cameras, verdicts, period, p99)
    got = read(plc_messages.beat(beat, order), BEAT_TABLE, order)
    p99_ms = got.pop("p99_ms")
    assert got == {
        "kind": 18, "state": int(state), "counter": counter % 2**32,
        "cameras_ok": cameras % 2**32, "verdicts_sent": verdicts % 2**32,
        "period_ms": capped(period), "zero_a": 0, "zero_b": 0, "zero_c": 0,
    }  # fmt: skip
    if math.isnan(p99) or p99 >= 65535:
        assert p99_ms == 65535
    else:
        assert abs(p99_ms - max(0, p99)) <= 0.5


def test_the_json_says_the_same_and_no_number_is_null() -> None:
    exposure = Exposure(FrameId("line3", "cam2", 17, 8812034), 5 * MS, 1234 * MS, 105 * MS, 912345)
    verdict = Verdict(
        exposure, Outcome.UNINSPECTED, Reason.INVALID_SCORE, math.nan, 0.5, 6 * MS
    )  # fmt: skip
    text = plc_messages.verdict_json(verdict, msg_no=7, now_ns=45 * MS)
    assert json.loads(text) == {
        "event_id": "line3/cam2/17/8812034", "event_time_ms": 1234, "line": "line3",
        "camera": "cam2", "msg_no": 7, "epoch": 17, "sequence": 8812034, "part_id": 912345,
        "verdict": "uninspected", "reason": "invalid_score", "score": None, "threshold": 0.5,
        "age_ms": 40.0, "deadline_ms": 100.0,
    }  # fmt: skip


@given(part=st.integers(0, 2**32 - 1), triggers=st.integers(0, 2**32 - 1), order=orders)
def test_a_part_is_two_numbers(part: int, triggers: int, order: str) -> None:
    payload = part.to_bytes(4, order) + triggers.to_bytes(4, order)
    assert plc_messages.part_told(payload, order) == PartTold(part, triggers)


@given(st.binary(max_size=40).filter(lambda b: len(b) != 8))
def test_any_other_length_is_no_part(payload: bytes) -> None:
    with pytest.raises(MessageError, match=f"bytes = {len(payload)} is no part; expected 8"):
        plc_messages.part_told(payload, "little")


@pytest.mark.parametrize(
    ("change", "recipe", "last"),
    [({}, "foil-a", (12, 12)), ({"recipe": 4}, "4", (12, 12)), ({"recipe": None}, "", (12, 12)),
     ({"last_msg_no": 7}, "foil-a", (7,)), ({"more": {}}, "foil-a", (12, 12))],
)  # fmt: skip
def test_the_plcs_counts_are_heard(
    change: dict[str, object], recipe: str, last: tuple[int, ...]
) -> None:
    said = {key: value for key, value in (LINE | change).items() if value is not None}
    told = plc_messages.line_told(json.dumps(said).encode())
    assert told == LineTold(True, recipe, 12, 10, 1, 1, last)


@pytest.mark.parametrize(
    "change",
    [{"run": 1}, {"parts": -1}, {"parts": "12"}, {"accepted": 1.5}, {"rejected_silent": None},
     {"last_msg_no": ["a"]}, {"last_msg_no": [-1]}, {"recipe": []}],
)  # fmt: skip
def test_a_line_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        plc_messages.line_told(json.dumps(LINE | change).encode())


@pytest.mark.parametrize("field", sorted(set(LINE) - {"recipe"}))
def test_a_line_without_a_field_is_refused(field: str) -> None:
    said = {key: value for key, value in LINE.items() if key != field}
    with pytest.raises(MessageError, match=field):
        plc_messages.line_told(json.dumps(said).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(LINE)), inner),
)


@given(st.binary(max_size=60) | json_values.map(msgspec.json.encode))
def test_nothing_malformed_gets_past_as_a_foreign_error(payload: bytes) -> None:
    try:
        told = plc_messages.line_told(payload)
    except MessageError:
        return
    assert isinstance(told, LineTold)


@pytest.mark.parametrize("payload", [b'{"more":' + b"[" * 100_000, b"", b"\xff", b"null", b"[]"])
def test_deep_empty_and_foreign_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        plc_messages.line_told(payload)
