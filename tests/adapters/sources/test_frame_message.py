"""The message of one picture: what goes in comes out, and no lie gets through."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adapters.errors import FrameMessageError
from adapters.ports import FrameFormat
from adapters.sources.frame_message import (
    HEADER_BYTES,
    PIXEL_BYTES,
    decode_header,
    decode_pixels,
    encode,
)

RIGHT = {
    "schema": 1, "height": 4, "width": 6, "channels": 3, "dtype": "uint16",
    "sequence": 9, "part": 10, "exposed_ns": 11,
}  # fmt: skip
U63 = st.integers(0, 2**63 - 1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2),
    st.integers(), st.integers(-2, 2), st.integers(65534, 65538), st.integers(2**63 - 2, 2**64 + 2),
)  # fmt: skip


def header(**changed: object) -> bytes:
    return json.dumps({**RIGHT, **changed}).encode()


def refused(raw: bytes) -> str:
    with pytest.raises(FrameMessageError) as error:
        decode_header(raw)
    assert str(error.value).isprintable(), "one line, whatever was in the message"
    return str(error.value)


@given(
    pixels=SHAPES.flatmap(
        lambda shape: st.sampled_from(["u1", "<u2", ">u2"]).flatmap(
            lambda dtype: arrays.arrays(dtype, shape)
        )
    ),
    sequence=U63,
    part=U63,
    exposed_ns=st.none() | st.integers(0, 2**63 - 1),
)
def test_a_picture_comes_out_as_it_went_in(
    pixels: np.ndarray, sequence: int, part: int, exposed_ns: int | None
) -> None:
    first, second = encode(pixels, sequence, part=part, exposed_ns=exposed_ns)
    decoded = decode_header(first)
    assert (decoded.sequence, decoded.part, decoded.exposed_ns) == (sequence, part, exposed_ns)
    assert decoded.format == FrameFormat.of(pixels)
    shown = decode_pixels(decoded, [memoryview(second)])
    assert shown.dtype == decoded.dtype
    np.testing.assert_array_equal(shown, pixels)


def test_pixels_that_lie_in_one_piece_are_not_copied() -> None:
    pixels = np.zeros((8, 8, 1), np.uint8)
    first, second = encode(pixels, 0)
    pixels[3] = 200
    assert (decode_pixels(decode_header(first), [memoryview(second)])[3] == 200).all()


def test_a_cut_of_a_larger_picture_is_sent_as_it_looks() -> None:
    whole = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    first, second = encode(whole[::2, 3:9], 0)
    shown = decode_pixels(decode_header(first), [memoryview(second)])
    np.testing.assert_array_equal(shown, whole[::2, 3:9])


def test_part_and_exposure_may_be_left_out() -> None:
    short = {k: v for k, v in RIGHT.items() if k not in ("part", "exposed_ns")}
    decoded = decode_header(json.dumps(short).encode())
    assert (decoded.part, decoded.exposed_ns) == (0, None)


@pytest.mark.parametrize("name", ["schema", "height", "width", "channels", "dtype", "sequence"])
def test_what_a_header_must_say_is_missed_by_name(name: str) -> None:
    short = {k: v for k, v in RIGHT.items() if k != name}
    assert f"`{name}`" in refused(json.dumps(short).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", 0), ("schema", 2), ("schema", "1"),
        ("height", 0), ("height", -1), ("height", 65537), ("height", 2**31), ("height", 4.0),
        ("width", 0), ("width", 65537), ("width", True), ("width", None),
        ("channels", 0), ("channels", 2), ("channels", 4),
        ("dtype", "int8"), ("dtype", "float32"), ("dtype", "O"), ("dtype", "uint8,uint8"),
        ("sequence", -1), ("sequence", 2**63), ("part", -1), ("part", 2**63), ("exposed_ns", -1),
        ("flavour", 1), ("line\nbreak", 1),
    ],
)  # fmt: skip
def test_what_a_header_must_not_say_is_refused_by_name(name: str, value: object) -> None:
    assert name.encode("unicode_escape").decode() in refused(header(**{name: value}))


def test_a_picture_over_the_bound_is_refused_and_the_largest_is_not() -> None:
    side = 1 << 15
    claim = {"height": side, "channels": 1, "dtype": "uint8"}
    assert decode_header(header(**claim, width=side)).format.nbytes == PIXEL_BYTES
    assert str(PIXEL_BYTES) in refused(header(**claim, width=side + 1))
    assert str(PIXEL_BYTES) in refused(header(height=65536, width=65536))


def test_a_long_header_is_not_even_parsed() -> None:
    padded = header() + b" " * (HEADER_BYTES - len(header()))
    assert decode_header(padded).sequence == 9
    assert f"at most {HEADER_BYTES}" in refused(padded + b" ")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_that_are_no_header_are_refused(raw: bytes) -> None:
    refused(raw)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_is_refused_or_still_within_its_ranges(place: int, put: bytes) -> None:
    raw = bytearray(header())
    raw[place % len(raw) : place % len(raw) + len(put)] = put
    _refused_or_within_its_ranges(bytes(raw))


@given(st.dictionaries(st.sampled_from(list(RIGHT)) | st.text(max_size=3), VALUES, max_size=4))
def test_a_header_that_lies_is_refused_or_still_within_its_ranges(lies: dict[str, object]) -> None:
    _refused_or_within_its_ranges(header(**lies))


def _refused_or_within_its_ranges(raw: bytes) -> None:
    try:
        decoded = decode_header(raw)
    except FrameMessageError:
        refused(raw)
        return
    assert decoded.schema == 1
    assert 1 <= decoded.height <= 65536
    assert 1 <= decoded.width <= 65536
    assert decoded.channels in (1, 3)
    assert decoded.dtype in ("uint8", "uint16")
    assert decoded.format.nbytes <= PIXEL_BYTES
    assert 0 <= decoded.sequence < 2**63
    assert 0 <= decoded.part < 2**63
    assert decoded.exposed_ns is None or decoded.exposed_ns >= 0


@pytest.mark.parametrize("sizes", [[], [0], [143], [145], [72, 72], [144, 0], [288]])
def test_pixels_of_another_size_than_the_header_says_are_refused(sizes: list[int]) -> None:
    parts = [memoryview(bytes(size)) for size in sizes]
    with pytest.raises(FrameMessageError, match="expected one part of 144 bytes"):
        decode_pixels(decode_header(header()), parts)
