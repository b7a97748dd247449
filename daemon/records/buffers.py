"""Memory for pictures that wait to be written: bounded, and used again.

A copy into fresh memory costs a page fault for every 4 KiB, four times the copying itself, and for
so long the frame's slot is not given back.
"""

import threading

import numpy as np
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]
READY = 8
"""Free buffers of a size in use that `make_ready` sees to: a batch may be all defects."""


class Buffers:
    """From any thread."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """`most` lent at a time; `most_bytes` in all, lent and free."""
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._free: list[Buffer] = []
        self._lent = 0
        self._bytes = 0

    def lend(self, size: int) -> Buffer | None:
        """Of exactly so many bytes; None where that would be too much."""
        with self._lock:
            if self._lent == self._most:
                return None
            for place, buffer in enumerate(self._free):
                if buffer.size == size:
                    self._lent += 1
                    return self._free.pop(place)
            while self._free and self._bytes + size > self._most_bytes:
                self._bytes -= self._free.pop(0).size
            if self._bytes + size > self._most_bytes:
                return None
            buffer = np.empty(size, np.uint8)
            self._lent, self._bytes = self._lent + 1, self._bytes + size
            return buffer

    @property
    def lent(self) -> int:
        with self._lock:
            return self._lent

    def give_back(self, buffer: Buffer) -> None:
        with self._lock:
            self._lent -= 1
            self._free.append(buffer)

    def make_ready(self, size: int) -> None:
        """Have some free buffers whose pages are there already. In the evidence thread: this is
        where their page faults are paid."""
        while True:
            with self._lock:
                spare = sum(buffer.size == size for buffer in self._free)
                if spare >= READY or self._bytes + size > self._most_bytes:
                    return
                self._bytes += size
            buffer = np.empty(size, np.uint8)
            buffer.fill(0)
            with self._lock:
                self._free.append(buffer)
