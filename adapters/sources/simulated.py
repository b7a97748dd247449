"""A camera that does not exist, looking at a product that does not exist.

Live (`fps` above 0) it behaves as cameras do: it exposes at its own moments whether anyone is ready
or not, and a frame that finds no slot is lost and reported. Otherwise it delivers as fast as slots
are lent. Everything happens in the thread that calls `stream`.
"""

import itertools
import math
import threading
import time
from collections.abc import Iterable

import numpy as np

from adapters.errors import SourceUrlError
from adapters.ports import Intake, Reason, Shot
from adapters.sources.product import SimulatedProduct


class SimulatedSource:
    """Shows parts first, first + 1, … of the product; a part is its sequence number plus one."""

    counts_on = False

    def __init__(
        self, product: SimulatedProduct, *, fps: float = 0.0, frames: int = 0, first: int = 0
    ) -> None:
        """`fps` 0: no pace of its own. `frames` 0: endless."""
        for key, value, right, expected in (
            ("fps", fps, 0 <= fps < math.inf, "frames per second, from 0"),
            ("frames", frames, frames >= 0, "a number of frames, 0 for endless"),
            ("first", first, first >= 0, "a whole number from 0"),
        ):
            if not right:
                raise SourceUrlError("is out of range", key=key, value=value, expected=expected)
        self._product = product
        self._fps = fps
        self._frames = frames
        self._first = first
        self._stopped = threading.Event()

    def stream(self, intake: Intake) -> None:
        if self._fps:
            self._expose_on_time(intake)
        else:
            self._expose_on_demand(intake)

    def stop(self) -> None:
        self._stopped.set()

    def _numbers(self) -> Iterable[int]:
        if self._frames:
            return range(self._first, self._first + self._frames)
        return itertools.count(self._first)

    def _expose_on_demand(self, intake: Intake) -> None:
        for k in self._numbers():
            pixels = self._product.part(k).pixels
            lease = None if self._stopped.is_set() else intake.lend(self._product.format, wait=True)
            if lease is None:
                return
            shot = Shot(sequence=k, exposed_ns=time.monotonic_ns(), part=k + 1)
            np.copyto(lease.pixels, pixels)
            intake.arrived(shot, lease)

    def _expose_on_time(self, intake: Intake) -> None:
        period_ns = 1e9 / self._fps
        # The first picture draws the product's texture (up to a second): before the clock starts.
        self._product.part(0)
        start_ns = time.monotonic_ns()
        for i, k in enumerate(self._numbers()):
            shot = Shot(sequence=k, exposed_ns=start_ns + round(i * period_ns), part=k + 1)
            if time.monotonic_ns() - shot.exposed_ns > period_ns:
                # This machine draws more slowly than the camera exposes: skip, keep the pace.
                pixels = None
            else:
                # Drawn ahead, so that the frame's deadline pays for the camera alone.
                pixels = self._product.part(k).pixels
            if self._stopped.wait((shot.exposed_ns - time.monotonic_ns()) / 1e9):
                return
            lease = None
            if pixels is not None:
                lease = intake.lend(self._product.format, wait=False)
            if pixels is None or lease is None:
                intake.unseen(shot, Reason.OVERLOAD)
                continue
            np.copyto(lease.pixels, pixels)
            intake.arrived(shot, lease)
