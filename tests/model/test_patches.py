"""An image cut into patches and stitched again is the same image, at any size and stride."""

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.errors import FrameShapeError
from model.patches import Grid, cut, stitch

SIZE = 64

sides = st.integers(SIZE, 300)
strides = st.integers(8, SIZE)
small = settings(deadline=None, max_examples=30)


def _pixels(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Whole numbers: their sums are exact, and so must be the mean."""
    random = torch.Generator().manual_seed(height * 1000 + width)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, generator=random).float()


@small
@given(sides, sides, strides)
@example(64, 64, 64)
@example(65, 300, 8)
def test_cut_then_stitch_is_the_identity(height: int, width: int, stride: int) -> None:
    grid = Grid.over(height, width, SIZE, stride)
    image = _pixels(2, 1, height, width)
    assert torch.equal(stitch(cut(image, grid), grid), image)


@pytest.mark.parametrize(("height", "width"), [(256, 4096), (4096, 64), (64, 1001)])
def test_a_strip_is_stitched_to_itself(height: int, width: int) -> None:
    grid = Grid.over(height, width, SIZE, SIZE)
    image = _pixels(1, 3, height, width)
    assert torch.equal(stitch(cut(image, grid), grid), image)


@settings(deadline=None, max_examples=200)
@given(st.integers(SIZE, 5000), st.integers(SIZE, 5000), strides)
def test_patches_cover_every_pixel_and_the_last_stands_flush(
    height: int, width: int, stride: int
) -> None:
    grid = Grid.over(height, width, SIZE, stride)
    assert len(grid) == len(grid.rows) * len(grid.columns)
    for starts, length in ((grid.rows, height), (grid.columns, width)):
        assert starts[0] == 0
        assert starts[-1] == length - SIZE
        steps = np.diff(starts)
        assert (steps[:-1] == stride).all()
        assert (steps > 0).all()
        assert (steps <= stride).all()


@small
@given(st.integers(SIZE, 160), st.integers(SIZE, 160), strides)
def test_the_grid_is_the_transcribed_one(
    paper: ModuleType, height: int, width: int, stride: int
) -> None:
    grid = Grid.over(height, width, SIZE, stride)
    assert list(grid.rows) == paper.starts(height, stride)
    assert list(grid.columns) == paper.starts(width, stride)


@small
@given(st.integers(SIZE, 160), st.integers(SIZE, 160), strides)
def test_patches_come_image_by_image_and_row_by_row(height: int, width: int, stride: int) -> None:
    grid = Grid.over(height, width, SIZE, stride)
    images = _pixels(2, 2, height, width)
    corners = [(k, y, x) for k in range(2) for y in grid.rows for x in grid.columns]
    patches = cut(images, grid)
    assert len(patches) == len(corners)
    for patch, (k, y, x) in zip(patches, corners, strict=True):
        assert torch.equal(patch, images[k, :, y : y + SIZE, x : x + SIZE])


@small
@given(st.integers(SIZE, 160), st.integers(SIZE, 160), strides)
def test_overlapping_patches_are_averaged(
    paper: ModuleType, height: int, width: int, stride: int
) -> None:
    grid = Grid.over(height, width, SIZE, stride)
    corners = [(y, x) for y in grid.rows for x in grid.columns]
    patches = _pixels(2 * len(grid), 1, SIZE, SIZE)
    images = stitch(patches, grid)
    for k, image in enumerate(images):
        own = list(patches[k * len(grid) : (k + 1) * len(grid)].numpy())
        np.testing.assert_allclose(image, paper.average(own, corners, height, width), rtol=1e-6)


@given(st.integers(1, 200), st.integers(1, 200).filter(lambda side: side < SIZE), st.booleans())
def test_an_image_under_a_patch_is_refused_by_its_size(long: int, short: int, tall: bool) -> None:
    height, width = (long, short) if tall else (short, long)
    with pytest.raises(FrameShapeError, match=f"'{width}x{height}'.*at least 64x64"):
        Grid.over(height, width, SIZE, SIZE)
