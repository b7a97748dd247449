"""What a person looks at shows every defect, whatever the picture's type, size and shape."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.picture import GAP, RED, heat, heat_shape, side_by_side
from model.regions import Region

FIT = [(64, 64), (65, 67), (66, 130), (1, 1), (64, 1000), (1000, 64)]


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.data())
def test_no_defect_is_too_thin_for_the_heat_map(height: int, width: int, data: Any) -> None:
    y = data.draw(st.integers(0, height - 1))
    x = data.draw(st.integers(0, width - 1))
    defect_map = np.zeros((height, width), np.float32)
    defect_map[y, x] = 1.5
    shown = heat(defect_map, 1.0)
    assert shown.shape == heat_shape(height, width) == (-(-height // 4), -(-width // 4))
    assert shown.dtype == np.uint8
    assert np.argwhere(shown).tolist() == [[y // 4, x // 4]]
    assert shown[y // 4, x // 4] == 192


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, 0), (0.5, 64), (1.0, 128), (2.0, 255), (1e30, 255), (np.inf, 255), (np.nan, 255)],
)
def test_heat_is_128_at_the_threshold_and_never_small_where_it_is_no_number(
    value: float, shown: int
) -> None:
    defect_map = np.zeros((8, 8), np.float32)
    defect_map[5, 2] = value
    assert heat(defect_map, 1.0)[1, 0] == shown


@given(st.floats(2**-20, 2**20, width=32))
@example(0.10000000149011612)
def test_heat_is_128_at_every_threshold(threshold: float) -> None:
    assert heat(np.full((4, 4), threshold, np.float32), threshold).item() == 128


def test_over_a_threshold_of_zero_everything_is_hot() -> None:
    defect_map = np.zeros((4, 8), np.float32)
    defect_map[0, 0] = 0.01
    assert heat(defect_map, 0.0).tolist() == [[255, 0]]


def _picture(
    height: int, width: int, channels: int, dtype: type[np.unsignedinteger[Any]]
) -> np.ndarray:
    """Up to 4000 where the type allows: what a 12-bit camera gives."""
    most = min(int(np.iinfo(dtype).max), 4000)
    random = np.random.default_rng(height)
    pixels = random.integers(0, most, (height, width, channels), dtype=dtype, endpoint=True)
    pixels[0, 0] = most
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), FIT)
def test_three_pictures_stand_beside_each_other_or_under_each_other_for_a_strip(
    height: int, width: int, channels: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    pixels = _picture(height, width, channels, dtype)
    before = pixels.copy()
    drawn = side_by_side(pixels, np.zeros(heat_shape(height, width), np.uint8), [])
    strip = width > 2 * height
    grown = (3 * height + 2 * GAP, width) if strip else (height, 3 * width + 2 * GAP)
    assert drawn.shape == (*grown, 3)
    assert drawn.dtype == np.uint8
    assert (pixels == before).all()

    first, last = drawn[:height, :width], drawn[-height:, -width:]
    expected = np.broadcast_to(pixels.astype(float) * 255 / pixels.max(), first.shape)
    assert np.abs(first - expected).max() <= 1
    assert (last == first).all(), "without regions nothing is outlined"


def test_a_black_16_bit_picture_stays_black() -> None:
    drawn = side_by_side(np.zeros((64, 64, 1), np.uint16), np.zeros((16, 16), np.uint8), [])
    assert not drawn[:, :64].any()


def test_the_overlay_is_brighter_where_it_is_hot() -> None:
    hot = np.zeros((16, 16), np.uint8)
    hot[:, 8:] = 255
    drawn = side_by_side(np.full((64, 64, 1), 100, np.uint8), hot, []).astype(int)
    overlay = drawn[:, 64 + GAP : 128 + GAP]
    assert overlay[:, 40:].sum() > 2 * overlay[:, :24].sum()


def test_a_region_is_outlined_from_without() -> None:
    region = Region(x=20, y=30, width=6, height=4, area=24, score=1.0)
    picture = np.full((64, 64, 1), 100, np.uint8)
    drawn = side_by_side(picture, np.zeros((16, 16), np.uint8), [region])
    red = np.argwhere((drawn == RED).all(axis=2)) - (0, 2 * (64 + GAP))
    assert red.min(axis=0).tolist() == [27, 17]
    assert red.max(axis=0).tolist() == [36, 28]
    inside = (red >= (30, 20)).all(axis=1) & (red < (34, 26)).all(axis=1)
    assert not inside.any(), "the defect itself stays visible"


@pytest.mark.parametrize(("x", "y"), [(0, 0), (62, 63)])
def test_a_region_at_the_edge_is_outlined_as_far_as_there_is_room(x: int, y: int) -> None:
    region = Region(x=x, y=y, width=1, height=1, area=1, score=1.0)
    picture = np.full((64, 64, 3), 100, np.uint8)
    drawn = side_by_side(picture, np.zeros((16, 16), np.uint8), [region])
    assert (drawn == RED).all(axis=2).any()
