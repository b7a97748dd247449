"""How much a picture differs from those before it: a frozen camera repeats itself.

No torch here: the daemon compares frames as they come, calibration the normal images. A grid of
pixels is enough, since noise and texture change every one of them.
"""

from collections import deque
from typing import Any

import cv2
from numpy.typing import NDArray

STEP = 8  # pixels from one sample to the next; a frame has at least 64 a side
LATELY = 4  # pictures; a driver that is stuck shows its few buffers in turn


class Lately:
    """The last pictures of one camera."""

    def __init__(self) -> None:
        self._samples: deque[NDArray[Any]] = deque(maxlen=LATELY)

    def change(self, pixels: NDArray[Any]) -> float | None:
        """(H, W, C) -> its change from the most alike of them; it is one of them from now on.

        None where no one has its size."""
        now = sample(pixels)
        changes = [change(now, before) for before in self._samples]
        self._samples.append(now)
        return min((c for c in changes if c is not None), default=None)


def sample(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) -> (H/8, W/8, C), a copy."""
    return pixels[STEP // 2 :: STEP, STEP // 2 :: STEP].copy()


def change(now: NDArray[Any], before: NDArray[Any]) -> float | None:
    """Mean absolute difference of two samples, in values of a pixel; None for unlike pictures."""
    if now.shape != before.shape or now.dtype != before.dtype:
        return None
    return cv2.norm(now, before, cv2.NORM_L1) / now.size  # one pass, and nothing wraps
