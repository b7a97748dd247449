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

    def __init__(self, most: int, kind_of: Callable[[Frame], Kind]) -> None:
        self._most, self._kind_of = most, kind_of
        self._order = itertools.count()
        self._heaps: dict[Kind, list[_Waiting]] = {}

    def put(self, frame: Frame, now_ns: int) -> None:
        deadline_ns = frame.exposure.deadline_ns
        patience_ns = now_ns + int(SHARE * max(0, deadline_ns - now_ns))
        waiting = _Waiting(deadline_ns, next(self._order), patience_ns, frame)
        heapq.heappush(self._heaps.setdefault(self._kind_of(frame), []), waiting)

    def take(self, now_ns: int, *, idle: bool) -> Batch | None:
        """The next batch; None where it pays to wait for more. `idle`: the worker has nothing."""
        for kind in sorted(self._heaps, key=lambda k: self._heaps[k][0].deadline_ns):
            heap = self._heaps[kind]
            if idle or len(heap) >= self._most or min(w.patience_ns for w in heap) <= now_ns:
                count = min(self._most, len(heap))
                frames = tuple(heapq.heappop(heap).frame for _ in range(count))
                self._drop_if_empty(kind)
                return Batch(kind, frames)
        return None

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
        """When some frame will have waited its share."""
        return min((w.patience_ns for w in self._all()), default=None)

    def waiting(self) -> Mapping[Kind, int]:
        return {kind: len(heap) for kind, heap in self._heaps.items()}

    def _all(self) -> Iterator[_Waiting]:
        return itertools.chain.from_iterable(self._heaps.values())

    def _drop_if_empty(self, kind: Kind) -> None:
        if not self._heaps[kind]:
            del self._heaps[kind]
