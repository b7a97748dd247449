"""Whether a frame can be judged in time: what service took lately, and what is before it."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Collection

from adapters.ports import FrameFormat

LATELY = 15  # batches that are remembered of each kind and size
SURE = 90  # per cent of them took no longer than what is expected of the next one
STALE_NS = 10_000_000_000
"""A batch size that was not seen for so long says nothing: one slow measure of it would keep it
from ever being tried again."""
KINDS = 64  # that are remembered; a line has a handful

Kind = tuple[str, FrameFormat]
"""A recipe and a frame's size: what costs alike."""


class ServiceTimes:
    """Nanoseconds that the worker takes for a batch; 0 until one of its kind was measured.

    A batch has a price of its own besides that of its frames, a large one on a GPU: so times are
    kept by batch size. What a size takes that was never seen lies on the line through the smallest
    and the largest one that were; where only one was, frames are all that counts.

    Most of the last batches took no longer (of 15, all but one): a frame that is admitted on an
    average is late half of the time, and then its scoring was in vain. One slow batch alone, which
    another process held up, says little about the next one.
    """

    def __init__(self) -> None:
        self._lately: OrderedDict[Kind, dict[int, deque[int]]] = OrderedDict()
        self._expected: dict[Kind, dict[int, float]] = {}
        """By kind and batch size; asked for far more often than measured."""
        self._measured_ns: dict[tuple[Kind, int], int] = {}

    def observe(self, kind: Kind, frames: int, took_ns: int) -> None:
        sizes = self._lately.setdefault(kind, {})
        lately = sizes.setdefault(frames, deque(maxlen=LATELY))
        lately.append(took_ns)
        now_ns = self._measured_ns[kind, frames] = time.monotonic_ns()
        for size in [s for s in sizes if now_ns - self._measured_ns[kind, s] > STALE_NS]:
            del sizes[size], self._expected[kind][size], self._measured_ns[kind, size]
        self._expected.setdefault(kind, {})[frames] = percentile(lately, SURE)
        self._lately.move_to_end(kind)
        if len(self._lately) > KINDS:
            forgotten, gone = self._lately.popitem(last=False)
            del self._expected[forgotten]
            for size in gone:
                del self._measured_ns[forgotten, size]

    def batch_ns(self, kind: Kind, frames: int) -> float:
        expected = self._expected.get(kind)
        if not expected or not frames:
            return 0.0
        if frames in expected:
            return expected[frames]
        low, high = min(expected), max(expected)
        if low == high:
            return expected[low] * max(1.0, frames / low)
        slope_ns = max(0.0, (expected[high] - expected[low]) / (high - low))
        return max(0.0, expected[low] + slope_ns * (frames - low))


def percentile(values: Collection[float], q: float) -> float:
    """By nearest rank; 0 where there is none yet."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * q / 100)) - 1] if ordered else 0.0
