"""Frames that were in a worker's hands when it died: each gets one more try, alone.

Their verdict is said already, `worker_restart`; the second try may still find a defect. A frame
that kills a worker again, alone in its hands, did it the first time as well: its picture is set
aside as evidence, and no third worker sees it. Event loop.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from adapters.ports import Frame, Pixels
from daemon.worker.ring import Ring

MOST = 8
"""Pictures kept for a second try; the oldest go first."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Suspect:
    frame: Frame
    pixels: NDArray[Any]


class SecondTries:
    def __init__(
        self,
        ring: Ring,
        lend: Callable[[Frame], int | None],
        set_aside: Callable[[Frame, Pixels], None],
    ) -> None:
        """`lend`: a free slot of the frame's camera; `set_aside`: keeps the picture as evidence."""
        self._ring, self._lend, self._set_aside = ring, lend, set_aside
        self._waiting: deque[_Suspect] = deque(maxlen=MOST)
        self._on_trial: _Suspect | None = None

    def remember(self, frames: Sequence[Frame]) -> None:
        """What a dead worker held, while it still stands in the ring."""
        if self._on_trial is not None:
            self._convict(self._on_trial)
            return
        for frame in frames[:MOST]:  # the batch that it worked on comes first
            place = self._ring.slots[frame.slot].pixels
            pixels = self._ring.pixels(place, frame.format).copy()
            self._waiting.append(_Suspect(frame, pixels))

    def next(self) -> Frame | None:
        """A frame to try again, in a slot of its own; None where there is none, or no slot."""
        if not self._waiting or (slot := self._lend(self._waiting[0].frame)) is None:
            return None
        suspect = self._on_trial = self._waiting.popleft()
        place = self._ring.slots[slot].pixels
        np.copyto(self._ring.pixels(place, suspect.frame.format), suspect.pixels)
        return replace(suspect.frame, slot=slot)

    def untried(self) -> None:
        """The worker never saw it."""
        if self._on_trial is not None:
            self._waiting.appendleft(self._on_trial)
            self._on_trial = None

    def answered(self) -> None:
        """The worker lives: whatever it said, the frame is cleared."""
        self._on_trial = None

    def _convict(self, suspect: _Suspect) -> None:
        self._on_trial = None
        log.error("frame set aside: it killed two workers", frame=str(suspect.frame.exposure.id))
        self._set_aside(suspect.frame, suspect.pixels)
