"""BATCH: frames that may be scored together, the earliest deadline first.

A batch holds frames of one recipe and one size, from any cameras. It goes when it is full, when
its first frame has waited its share, or when the worker has nothing else to do: no camera is ever
waited for.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from adapters.ports import Frame
from daemon.deadlines import Kind

SHARE = 0.25
"""Of the time a frame has left when it comes: how much of it may be spent on waiting for others."""


@dataclass(frozen=True, slots=True)
class Batch:
    kind: Kind
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    deadline_ns: int
    order: int
    patience_ns: int
    """When it has waited its share."""
    frame: Frame


class BatchQueue:
    """A plain data structure: it is told the time, so that a test can tell it any."""

    def __init__(self, most: int, kind_of: Callable[[Frame], Kind], longest_ns: float) -> None:
        """`most` frames in a batch; and none that takes longer than `longest_ns`, where that can be
        helped: an urgent frame cannot overtake what the worker has begun."""
        self.most, self._kind_of, self._longest_ns = most, kind_of, longest_ns
        self._order = itertools.count()
        self._heaps: dict[Kind, list[_Waiting]] = {}

    def put(self, frame: Frame, now_ns: int) -> None:
        deadline_ns = frame.exposure.deadline_ns
        patience_ns = now_ns + int(SHARE * max(0, deadline_ns - now_ns))
        waiting = _Waiting(deadline_ns, next(self._order), patience_ns, frame)
        heapq.heappush(self._heaps.setdefault(self._kind_of(frame), []), waiting)

    def take(
        self, now_ns: int, *, idle: bool, free_ns: float, takes_ns: Callable[[Kind, int], float]
    ) -> Batch | None:
        """The next batch; None where it pays to wait for more.

        `idle`: the worker has nothing. `free_ns`: when it will have; `takes_ns`: what a batch
        takes. No more frames are put together than let the first of them be in time.
        """
        for kind in sorted(self._heaps, key=lambda k: self._heaps[k][0].deadline_ns):
            heap = self._heaps[kind]
            if idle or len(heap) >= self.most or min(w.patience_ns for w in heap) <= now_ns:
                count = self._fitting(kind, free_ns, takes_ns)
                frames = tuple(heapq.heappop(heap).frame for _ in range(count))
                self._drop_if_empty(kind)
                return Batch(kind, frames)
        return None

    def _fitting(self, kind: Kind, free_ns: float, takes_ns: Callable[[Kind, int], float]) -> int:
        heap = self._heaps[kind]
        sizes = range(min(self.most, len(heap)), 1, -1)
        largest = next((n for n in sizes if takes_ns(kind, n) <= self._longest_ns), 1)
        left_ns = heap[0].deadline_ns - free_ns
        fitting = (n for n in range(largest, 0, -1) if takes_ns(kind, n) <= left_ns)
        return next(fitting, largest)  # where even one is late, the others need not be

    def ahead_of(self, deadline_ns: int) -> dict[Kind, int]:
        """How many frames of each kind go before one with this deadline."""
        counts = {
            kind: sum(w.deadline_ns <= deadline_ns for w in heap)
            for kind, heap in self._heaps.items()
        }
        return {kind: count for kind, count in counts.items() if count}

    def expired(self, now_ns: int) -> list[Frame]:
        """Frames whose deadline has come while they waited, taken out: no use in scoring them."""
        gone = []
        for kind, heap in list(self._heaps.items()):
            while heap and heap[0].deadline_ns <= now_ns:
                gone.append(heapq.heappop(heap).frame)
            self._drop_if_empty(kind)
        return gone

    def clear(self) -> list[Frame]:
        frames = [waiting.frame for heap in self._heaps.values() for waiting in sorted(heap)]
        self._heaps.clear()
        return frames

    def next_due_ns(self) -> int | None:
        """When some batch should go: 0 if one is full, else when a frame has waited its share."""
        if any(len(heap) >= self.most for heap in self._heaps.values()):
            return 0
        return min((w.patience_ns for w in self._all()), default=None)

    def waiting(self) -> Mapping[Kind, int]:
        return {kind: len(heap) for kind, heap in self._heaps.items()}

    def _all(self) -> Iterator[_Waiting]:
        return itertools.chain.from_iterable(self._heaps.values())

    def _drop_if_empty(self, kind: Kind) -> None:
        if not self._heaps[kind]:
            del self._heaps[kind]
