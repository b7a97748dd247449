"""The frames that both processes see: slots in one anonymous memory file.

The daemon makes it and hands its descriptor to the worker; neither copies a frame to pass it on.
Not multiprocessing.shared_memory: in Python 3.11 a process that attaches unlinks the segment when
it exits. Its size is reserved at once, so that no write can fail for want of memory later.
"""

import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.ports import FrameFormat
from model.picture import HEAT_STEP, heat_shape

PAGE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one frame and, behind it, for its heat map. Bytes from the ring's start."""

    pixels: int
    capacity: int
    heat: int


class Ring:
    def __init__(self, fd: int, slots: Sequence[Slot] = ()) -> None:
        """Maps the memory file `fd`, which stays the caller's to close."""
        self.fd, self.slots = fd, slots
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)

    @staticmethod
    def create(capacities: Sequence[int]) -> "Ring":
        """One slot per capacity, in bytes of pixels. Raises OSError where memory is short."""
        slots, end = [], 0
        for capacity in capacities:
            heat = end + _whole_pages(capacity)
            slots.append(Slot(end, capacity, heat))
            end = heat + _whole_pages(_heat_room(capacity))
        fd = os.memfd_create("clearline-ring", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, max(end, PAGE))
            return Ring(fd, slots)
        except OSError:
            os.close(fd)
            raise

    def pixels(self, offset: int, frame: FrameFormat) -> NDArray[Any]:
        """(H, W, C), a view into the ring."""
        return np.ndarray(frame.shape, frame.dtype, self._memory, offset)

    def heat(self, offset: int, height: int, width: int) -> NDArray[np.uint8]:
        """(H/4, W/4), a view into the ring: the heat map of a frame of that size."""
        return np.ndarray(heat_shape(height, width), np.uint8, self._memory, offset)

    def close(self) -> None:
        os.close(self.fd)


def _heat_room(capacity: int) -> int:
    # Sides are rounded up to whole steps; a frame has at least 64 pixels a side, so an eighth over
    # the exact share is ample.
    return capacity // (HEAT_STEP * HEAT_STEP) * 9 // 8 + PAGE


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Quota:
    """The slots of one camera, each held by one frame at a time. From any thread."""

    def __init__(self, slots: Sequence[int]) -> None:
        self.size = len(slots)
        self._free = deque(slots)
        self._changed = threading.Condition()
        self._closed = False

    def take(self, *, wait: bool) -> int | None:
        """A free slot; None where there is none (`wait=False`) or the quota was closed."""
        with self._changed:
            while wait and not self._free and not self._closed:
                self._changed.wait()
            return self._free.popleft() if self._free and not self._closed else None

    def release(self, slot: int) -> None:
        with self._changed:
            self._free.append(slot)
            self._changed.notify()

    def close(self) -> None:
        """Nothing is lent any more; whoever waits is told."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def held(self) -> int:
        with self._changed:
            return self.size - len(self._free)
