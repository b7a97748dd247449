"""DRIFT: are good parts still scored as they were when the threshold was made? Event loop.

A lamp ages, a lens gets dirty: then the threshold keeps a false-reject budget for pictures that
nobody takes any more. Said by camera and recipe, and only said: nothing here calibrates anew.

The last scores are compared with the calibration's histogram by the Kolmogorov-Smirnov distance on
the histogram's edges. With n calibration images and m images in the window, both of one
distribution, the distance exceeds c sqrt((n + m) / (n m)), c = sqrt(-ln(FALSE_ALARM / 2) / 2), at
no more than FALSE_ALARM of the looks; on a histogram's edges only, at fewer. Added to it is
TOLERATED, a distance that nothing follows from, however many images show it.

- Images that follow each other are alike. The window counts as the m (1 - r) / (1 + r) independent
  ones that a first-order chain is worth whose neighbours' ranks correlate by r; r is never taken
  above MOST_ALIKE, or scores that run away without a pause would never be told. A likeness that
  lasts for lots is not in r: another lot that scores otherwise has drifted, and calibration images
  should come from many.
- Defects are in the window, since no one can tell a defect from a drifted good part. A share p of
  them moves the distance by p at most, which TOLERATED allows for.
- Looks add up: over L of them the expected number of false alarms is at most L x FALSE_ALARM,
  whether or not windows overlap. One a minute is 525,600 a year: at most one false alarm in 190
  years of a camera. A calibration that is itself unlucky is inside that number.
"""

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adapters.ports import Outcome, Verdict
from model.calibration import Histogram

WINDOW = 1000
"""Images, the last ones, of each camera and recipe."""
FALSE_ALARM = 1e-8
TOLERATED = 0.1
MOST_ALIKE = 0.9
BACK = 0.5
"""Of the distance that is drifting: under it, it is so no more."""


@dataclass(frozen=True, slots=True)
class Drift:
    camera: str
    recipe: str
    ks: float
    """The largest difference of the two cumulative distributions, 0 to 1."""
    images: int
    median: float
    calibrated_median: float
    """Interpolated between the histogram's edges."""
    state: Literal["drifting", "back"]


class DriftWatch:
    """A verdict sink that remembers scores until someone looks."""

    def __init__(self, histograms: Mapping[str, Histogram]) -> None:
        """`histograms`: by recipe, of its calibration."""
        self._calibrated = {recipe: _Calibrated(h) for recipe, h in histograms.items()}
        self._windows: defaultdict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=WINDOW)
        )
        self._drifting: set[tuple[str, str]] = set()

    def tell(self, verdict: Verdict) -> None:
        score = verdict.score
        if verdict.outcome is Outcome.UNINSPECTED or score is None or not math.isfinite(score):
            return
        self._windows[verdict.exposure.id.camera, verdict.recipe].append(score)

    def look(self) -> list[Drift]:
        """What has changed since the last look; once when it drifts, once when it is back."""
        found = []
        for key, window in self._windows.items():
            camera, recipe = key
            calibrated, scores = self._calibrated[recipe], np.sort(window)
            ks, limit = calibrated.distance(scores), calibrated.limit(np.asarray(window))
            if key not in self._drifting and ks > limit:
                self._drifting.add(key)
            elif key in self._drifting and ks < BACK * limit:
                self._drifting.remove(key)
            else:
                continue
            state: Literal["drifting", "back"] = "drifting" if key in self._drifting else "back"
            found.append(
                Drift(
                    camera, recipe, ks, len(window), float(np.median(scores)), calibrated.median,
                    state,
                )
            )  # fmt: skip
        return found


class _Calibrated:
    """The distribution of the calibration images' scores."""

    def __init__(self, histogram: Histogram) -> None:
        counts = np.concatenate([[0], np.cumsum(histogram.counts)])
        self._images = int(counts[-1])
        self._edges = np.linspace(histogram.low, histogram.high, len(counts))
        self._below = counts / self._images
        """The share under each edge; at the last one, which its bin includes, all."""
        self.median = float(np.interp(0.5, self._below, self._edges))

    def distance(self, scores: NDArray[Any]) -> float:
        """Kolmogorov-Smirnov, of sorted scores, on the histogram's edges."""
        below = np.searchsorted(scores, self._edges, side="left")
        below[-1] = np.searchsorted(scores, self._edges[-1], side="right")
        return float(np.abs(below / len(scores) - self._below).max())

    def limit(self, scores: NDArray[Any]) -> float:
        """What the distance exceeds by chance at FALSE_ALARM of the looks, and TOLERATED."""
        n, m = self._images, _worth(scores)
        return TOLERATED + math.sqrt(-math.log(FALSE_ALARM / 2) / 2 * (n + m) / (n * m))


def _worth(scores: NDArray[Any]) -> float:
    """How many independent images those in a row are worth."""
    _, ranks = np.unique(scores, return_inverse=True)
    apart = ranks - ranks.mean()
    power = float(apart @ apart)
    alike = float(apart[1:] @ apart[:-1]) / power if power else 0.0
    alike = min(max(alike, 0.0), MOST_ALIKE)
    return len(scores) * (1 - alike) / (1 + alike)
