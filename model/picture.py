"""What a person looks at: the image, its heat map, and the regions outlined, side by side."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.regions import Region

HEAT_AT_THRESHOLD = 128
"""Heat maps are uint8: 0 no residual, 128 at the threshold, 255 at twice it or more."""
HEAT_STEP = 4
"""A heat map has a fourth of the picture's sides: enough to look at, a sixteenth of the bytes."""

Bytes = NDArray[np.uint8]
GAP = 4
MARGIN, LEAST_SIDE = 32, 192
"""Pixels: what a crop shows around its regions, and how much it shows at least."""
MOST_OF = 0.5
"""A crop that would be more than this share of the picture is the picture."""
RED = (255, 40, 40)


def heat_shape(height: int, width: int) -> tuple[int, int]:
    return -(-height // HEAT_STEP), -(-width // HEAT_STEP)


def heat(defect_map: NDArray[np.float32], threshold: float) -> Bytes:
    """(H, W) -> (H/4, W/4), the largest value of each square, so that no thin defect is lost."""
    height, width = defect_map.shape
    rows, columns = heat_shape(height, width)
    padded = np.pad(
        defect_map, ((0, rows * HEAT_STEP - height), (0, columns * HEAT_STEP - width)), mode="edge"
    )
    largest = padded.reshape(rows, HEAT_STEP, columns, HEAT_STEP).max(axis=(1, 3))
    scaled: NDArray[np.float32] = np.nan_to_num(
        largest * (HEAT_AT_THRESHOLD / max(threshold, 1e-30)), nan=255.0
    )
    clipped: Bytes = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return clipped


def side_by_side(pixels: NDArray[Any], heat_map: Bytes, regions: Sequence[Region]) -> Bytes:
    """(H, W, C), (H/4, W/4) -> RGB: the picture, its heat map over it, the regions outlined.

    Beside each other, or one under the other where the picture is a strip.
    """
    image = _rgb(pixels)
    height, width = image.shape[:2]
    grown = cv2.resize(heat_map, (width, height), interpolation=cv2.INTER_LINEAR)
    coloured = cv2.cvtColor(cv2.applyColorMap(grown, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    overlay = cv2.addWeighted(image, 0.35, coloured, 0.65, 0)
    outlined = image.copy()
    for region in regions:
        corner = (region.x - 3, region.y - 3)
        opposite = (region.x + region.width + 2, region.y + region.height + 2)
        cv2.rectangle(outlined, corner, opposite, RED, max(1, min(height, width) // 200))
    axis = 0 if width > 2 * height else 1
    spacer = np.full((GAP, width, 3) if axis == 0 else (height, GAP, 3), 255, np.uint8)
    return np.concatenate((image, spacer, overlay, spacer, outlined), axis=axis)


def cut_out(
    pixels: NDArray[Any], heat_map: Bytes, regions: Sequence[Region]
) -> tuple[NDArray[Any], Bytes, Sequence[Region]]:
    """(H, W, C), (H/4, W/4) -> the same around all regions, which are moved with it; views.

    The whole picture where they lie all over it.
    """
    height, width = pixels.shape[:2]
    if not regions:
        return pixels, heat_map, regions
    top, bottom = _span([(r.y, r.y + r.height) for r in regions], height)
    left, right = _span([(r.x, r.x + r.width) for r in regions], width)
    if (bottom - top) * (right - left) > MOST_OF * height * width:
        return pixels, heat_map, regions
    rows = slice(top // HEAT_STEP, -(-bottom // HEAT_STEP))
    columns = slice(left // HEAT_STEP, -(-right // HEAT_STEP))
    moved = [replace(r, x=r.x - left, y=r.y - top) for r in regions]
    return pixels[top:bottom, left:right], heat_map[rows, columns], moved


def _span(sides: Sequence[tuple[int, int]], size: int) -> tuple[int, int]:
    """From the first to the last, with what is shown around; on whole steps of the heat map."""
    first, last = min(a for a, _ in sides), max(b for _, b in sides)
    spare = max(MARGIN, -(-(LEAST_SIDE - (last - first)) // 2))
    begin = max(0, first - spare) // HEAT_STEP * HEAT_STEP
    return begin, min(size, -(-(last + spare) // HEAT_STEP) * HEAT_STEP)


def _rgb(pixels: NDArray[Any]) -> Bytes:
    """8-bit RGB; 16-bit pictures are stretched to their brightest value."""
    image = pixels
    if image.dtype != np.uint8:
        image = (image.astype(np.float32) * (255.0 / max(1, int(image.max())))).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image)
