"""Whether a frame can be judged in time: what service took lately, and what is before it."""

import math
from collections import deque
from collections.abc import Collection

from adapters.ports import FrameFormat

LATELY = 15  # batches that are remembered of each kind
SURE = 90  # per cent of them took no longer than what is expected of the next one

Kind = tuple[str, FrameFormat]
"""A recipe and a frame's size: what costs alike."""


class ServiceTimes:
    """Nanoseconds that the worker takes for one frame of a kind; 0 until one was measured.

    Most of the last batches took no longer (of 15, all but one): a frame that is admitted on an
    average is late half of the time, and then its scoring was in vain. One slow batch alone, which
    another process held up, says little about the next one.
    """

    def __init__(self) -> None:
        self._lately: dict[Kind, deque[float]] = {}

    def observe(self, kind: Kind, frames: int, took_ns: int) -> None:
        self._lately.setdefault(kind, deque(maxlen=LATELY)).append(took_ns / frames)

    def per_frame_ns(self, kind: Kind) -> float:
        return percentile(self._lately[kind], SURE) if kind in self._lately else 0.0


def percentile(values: Collection[float], q: float) -> float:
    """By nearest rank; 0 where there is none yet."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * q / 100)) - 1] if ordered else 0.0
