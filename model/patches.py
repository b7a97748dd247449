"""Images cut into patches and put together again, on the device, at any image size.

Patches stand on a grid; where the grid does not reach the edge a last patch stands flush with it.
Pixels under several patches get their mean. Nothing is padded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import FrameShapeError


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the patches of an image stand: the product of row and column positions, in pixels."""

    height: int
    width: int
    size: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @staticmethod
    def over(height: int, width: int, size: int, stride: int) -> "Grid":
        """Raises FrameShapeError where the image is smaller than one patch."""
        if height < size or width < size:
            raise FrameShapeError(
                "is smaller than a patch",
                key="image",
                value=f"{width}x{height}",
                expected=f"at least {size}x{size} pixels",
            )
        return Grid(
            height, width, size, _starts(height, size, stride), _starts(width, size, stride)
        )

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def _starts(length: int, size: int, stride: int) -> tuple[int, ...]:
    regular = range(0, length - size + 1, stride)
    flush = length - size
    return (*regular,) if regular[-1] == flush else (*regular, flush)


def cut(images: Tensor, grid: Grid) -> Tensor:
    """(B, C, H, W) -> (B * len(grid), C, size, size), an image's patches row by row."""
    batch, channels = images.shape[:2]
    bands = torch.stack([images[:, :, y : y + grid.size] for y in grid.rows], dim=1)
    patches = torch.stack([bands[..., x : x + grid.size] for x in grid.columns], dim=2)
    return patches.reshape(batch * len(grid), channels, grid.size, grid.size)


def stitch(patches: Tensor, grid: Grid) -> Tensor:
    """(B * len(grid), C, size, size) -> (B, C, H, W), the mean where patches overlap."""
    channels = patches.shape[1]
    tiles = patches.reshape(-1, len(grid.rows), len(grid.columns), channels, grid.size, grid.size)
    bands = patches.new_zeros(tiles.shape[0], len(grid.rows), channels, grid.size, grid.width)
    for column, x in enumerate(grid.columns):
        bands[..., x : x + grid.size] += tiles[:, :, column]
    images = patches.new_zeros(tiles.shape[0], channels, grid.height, grid.width)
    for row, y in enumerate(grid.rows):
        images[:, :, y : y + grid.size] += bands[:, row]
    return images / _coverage(grid, images)


def _coverage(grid: Grid, like: Tensor) -> Tensor:
    """How many patches lie over each pixel: (H, W)."""
    rows, columns = like.new_zeros(grid.height, 1), like.new_zeros(1, grid.width)
    for y in grid.rows:
        rows[y : y + grid.size] += 1
    for x in grid.columns:
        columns[:, x : x + grid.size] += 1
    return rows * columns
