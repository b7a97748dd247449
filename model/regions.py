"""Where the defects are: connected regions of a defect map over the threshold."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Region:
    """A box in pixels, from its upper left corner; `area` counts the pixels over the threshold."""

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float


def find(defect_map: NDArray[np.float32], threshold: float, most: int = 16) -> tuple[Region, ...]:
    """(H, W) -> the regions, strongest first, at most `most` (an event's limit)."""
    # In float64, as the judgement compares: a defect always has a region.
    over = (defect_map > np.float64(threshold)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
    regions = []
    for label in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[label])
        box = defect_map[y : y + height, x : x + width]
        score = float(box[labels[y : y + height, x : x + width] == label].max())
        regions.append(Region(x, y, width, height, area, score))
    return tuple(sorted(regions, key=lambda r: r.score, reverse=True)[:most])
