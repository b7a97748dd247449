"""Whether a frame can be judged in time: what service took lately, and what is before it."""

from collections import deque
from collections.abc import Collection
from statistics import median

from adapters.ports import FrameFormat

LATELY = 15  # batches that are remembered of each kind

Kind = tuple[str, FrameFormat]
"""A recipe and a frame's size: what costs alike."""


class ServiceTimes:
    """Nanoseconds that the worker takes for one frame of a kind; 0 until one was measured.

    The median of the last batches: a first batch that warms the machine up, or one that another
    process held up, says little about the next one.
    """

    def __init__(self) -> None:
        self._lately: dict[Kind, deque[float]] = {}

    def observe(self, kind: Kind, frames: int, took_ns: int) -> None:
        self._lately.setdefault(kind, deque(maxlen=LATELY)).append(took_ns / frames)

    def per_frame_ns(self, kind: Kind) -> float:
        return median(self._lately[kind]) if kind in self._lately else 0.0


def percentile(values: Collection[float], q: float) -> float:
    """By nearest rank; 0 where there is none yet."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] if ordered else 0.0
