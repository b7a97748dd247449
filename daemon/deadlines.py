"""Whether a frame can be judged in time: what service took lately, and what is before it."""

import math
from collections import OrderedDict, deque
from collections.abc import Collection

from adapters.ports import FrameFormat

LATELY = 15  # batches that are remembered of each kind and size
SURE = 90  # per cent of them took no longer than what is expected of the next one
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

    def observe(self, kind: Kind, frames: int, took_ns: int) -> None:
        sizes = self._lately.setdefault(kind, {})
        sizes.setdefault(frames, deque(maxlen=LATELY)).append(took_ns)
        self._lately.move_to_end(kind)
        if len(self._lately) > KINDS:
            self._lately.popitem(last=False)

    def batch_ns(self, kind: Kind, frames: int) -> float:
        sizes = self._lately.get(kind)
        if not sizes or not frames:
            return 0.0
        if frames in sizes:
            return percentile(sizes[frames], SURE)
        low, high = min(sizes), max(sizes)
        low_ns, high_ns = (percentile(sizes[size], SURE) for size in (low, high))
        if low == high:
            return low_ns * max(1.0, frames / low)
        slope_ns = max(0.0, (high_ns - low_ns) / (high - low))
        return max(0.0, low_ns + slope_ns * (frames - low))


def percentile(values: Collection[float], q: float) -> float:
    """By nearest rank; 0 where there is none yet."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * q / 100)) - 1] if ordered else 0.0
