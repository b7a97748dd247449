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
    """(H, W) -> the regions, strongest first, at most `most` (an event's limit); the largest is
    always among them."""
    # In float64, as the judgement compares: a defect always has a region.
    over = defect_map > np.float64(threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        over.astype(np.uint8), connectivity=8
    )
    # A noisy map has tens of thousands of regions: all are ranked at once, few are made.
    scores = np.full(count, -np.inf, np.float32)
    np.maximum.at(scores, labels[over].astype(np.intp), defect_map[over])
    strongest = 1 + np.argsort(-scores[1:], kind="stable")[:most]  # 0 is the background
    areas = stats[:, cv2.CC_STAT_AREA]
    if len(strongest) and areas[strongest].max() < areas[1:].max():
        strongest[-1] = 1 + np.argmax(areas[1:])
    regions = []
    for label in strongest:
        x, y, width, height, area = (int(v) for v in stats[label])
        regions.append(Region(x, y, width, height, area, float(scores[label])))
    return tuple(regions)
