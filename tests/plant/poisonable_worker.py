"""The worker as it is, but for frames that begin with MARK: those end it, as their next byte says.

No real picture is known to do so; a broken driver or library could make any of them. Run as the
daemon runs its worker, with this module's name instead.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.worker import process
from model.engine import Engine, Scored

MARK = (1, 254, 3, 252)
RAISES, ABORTS = 1, 2


def poisoned(pixels: NDArray[Any], end: int) -> NDArray[Any]:
    pixels = pixels.copy()
    pixels[0, :5, 0] = (*MARK, end)
    return pixels


class PoisonableEngine(Engine):
    def score(self, frames: Sequence[NDArray[Any]]) -> list[Scored]:
        for frame in frames:
            if np.array_equal(frame[0, :4, 0], MARK):
                if frame[0, 4, 0] == ABORTS:
                    os.abort()
                raise FloatingPointError("this frame is poisoned")
        return super().score(frames)


if __name__ == "__main__":
    process.Engine = PoisonableEngine  # type: ignore[misc]
    process.main()
