"""Evidence: a picture of every defect, and of every frame that killed two workers.

They are encoded and written by a thread of its own. The loop only copies the frame and its heat map
out of the ring. Where the thread cannot follow, pictures are left out and counted: a verdict never
waits for one.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from numpy.typing import NDArray

from adapters.image_files import write_image
from adapters.ports import Frame, FrameId, Pixels
from daemon.worker.ring import Ring
from model.picture import side_by_side
from model.regions import Region

WAITING = 32  # pictures between loop and thread
MOST_ASIDE = 100
"""Frames set aside in a run: a camera that sends nothing else must not fill the disk."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Picture:
    path: Path
    pixels: NDArray[Any]
    heat: NDArray[Any] | None
    """None: the picture as the camera gave it."""
    regions: Sequence[Region] = ()


class Evidence:
    def __init__(self, folder: Path | None, aside: Path, ring: Ring) -> None:
        """Defects go into `folder`, where there is one; frames set aside into `aside`."""
        self._folder, self._aside, self._ring = folder, aside, ring
        self.left_out = 0
        self._asides = 0
        self._queue: queue.Queue[_Picture | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    def keep(self, frame: Frame, regions: Sequence[Region]) -> str | None:
        """A defect's picture's future address, or None where it is left out. Event loop."""
        if self._folder is None:
            return None
        slot = self._ring.slots[frame.slot]
        height, width = frame.format.height, frame.format.width
        pixels = self._ring.pixels(slot.pixels, frame.format).copy()
        heat = self._ring.heat(slot.heat, height, width).copy()
        path = self._folder / _name(frame.exposure.id)
        return self._put(_Picture(path, pixels, heat, regions))

    def set_aside(self, frame: FrameId, pixels: Pixels) -> str | None:
        """The raw picture, bit by bit. Event loop."""
        self._asides += 1
        if self._asides > MOST_ASIDE:
            self.left_out += 1
            return None
        return self._put(_Picture(self._aside / _name(frame), pixels, None))

    def close(self) -> None:
        """Writes what waits, then ends. Blocks until done."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, picture: _Picture) -> str | None:
        try:
            self._queue.put_nowait(picture)
        except queue.Full:
            self.left_out += 1
            return None
        return picture.path.absolute().as_uri()

    def _run(self) -> None:
        while (picture := self._queue.get()) is not None:
            try:
                drawn = picture.pixels
                if picture.heat is not None:
                    drawn = side_by_side(drawn, picture.heat, picture.regions)
                write_image(picture.path, drawn)
            except Exception as error:  # noqa: BLE001 (one picture must not cost the others)
                self.left_out += 1
                log.warning("evidence left out", problem=str(error), in_all=self.left_out)


def _name(frame: FrameId) -> str:
    return f"{frame.camera}-{frame.epoch}-{frame.sequence:08d}.png"
