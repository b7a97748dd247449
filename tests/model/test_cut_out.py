"""A crop shows all regions with some of what is around them, at the same place as before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.picture import HEAT_STEP, MARGIN, cut_out, heat_shape
from model.regions import Region


@given(
    st.integers(64, 900), st.integers(64, 900),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=4),
)  # fmt: skip
def test_every_region_shows_the_same_pixels_as_in_the_whole_picture(
    height: int, width: int, shares: list[tuple[float, float, float, float]]
) -> None:
    regions = []
    for x, y, w, h in shares:
        left, top = int(x * (width - 1)), int(y * (height - 1))
        wide, high = 1 + int(w * (width - left - 1)), 1 + int(h * (height - top - 1))
        regions.append(Region(left, top, wide, high, wide * high, 0.5))
    pixels = np.arange(height * width, dtype=np.uint32).reshape(height, width, 1)
    rows, columns = heat_shape(height, width)
    heat = (np.arange(rows * columns) % 251).astype(np.uint8).reshape(rows, columns)
    cropped, cropped_heat, moved = cut_out(pixels, heat, regions)
    assert cropped_heat.shape == heat_shape(*cropped.shape[:2])
    first = int(cropped[0, 0, 0])
    top, left = divmod(first, width)
    assert cropped_heat[0, 0] == heat[top // HEAT_STEP, left // HEAT_STEP]
    for before, after in zip(regions, moved, strict=True):
        assert (after.width, after.height) == (before.width, before.height)
        was = pixels[before.y : before.y + before.height, before.x : before.x + before.width]
        now = cropped[after.y : after.y + after.height, after.x : after.x + after.width]
        assert np.array_equal(was, now)


def test_a_small_region_is_shown_with_its_surroundings_and_not_with_the_whole_picture() -> None:
    pixels, heat = np.zeros((2000, 2000, 1), np.uint8), np.zeros((500, 500), np.uint8)
    cropped, _, (moved,) = cut_out(pixels, heat, [Region(1000, 400, 10, 300, 9, 0.5)])
    height, width = cropped.shape[:2]
    assert 300 + 2 * MARGIN <= height < 300 + 2 * MARGIN + 2 * HEAT_STEP
    assert 192 <= width <= 200
    assert moved.x >= MARGIN
    assert width - moved.x - moved.width >= MARGIN


@pytest.mark.parametrize(
    "regions", [[], [Region(0, 0, 5, 5, 9, 0.5), Region(990, 990, 10, 10, 9, 0.5)]]
)
def test_where_regions_lie_all_over_the_picture_it_is_shown_whole(regions: list[Region]) -> None:
    pixels, heat = np.zeros((1000, 1000, 1), np.uint8), np.zeros((250, 250), np.uint8)
    cropped, cropped_heat, moved = cut_out(pixels, heat, regions)
    assert cropped is pixels
    assert cropped_heat is heat
    assert moved is regions
