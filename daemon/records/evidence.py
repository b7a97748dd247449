"""Evidence: a picture of every defect, encoded and written by a thread of its own.

The loop only copies the frame and its heat map out of the ring. Where the thread cannot follow,
pictures are left out and counted: a verdict never waits for one.
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
from adapters.ports import Frame, FrameId
from daemon.worker.ring import Ring
from model.picture import side_by_side
from model.regions import Region

WAITING = 32  # pictures between loop and thread

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Picture:
    path: Path
    pixels: NDArray[Any]
    heat: NDArray[Any]
    regions: Sequence[Region]


class Evidence:
    def __init__(self, folder: Path, ring: Ring) -> None:
        self._folder, self._ring = folder, ring
        self.left_out = 0
        self._queue: queue.Queue[_Picture | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    def keep(self, frame: Frame, regions: Sequence[Region]) -> str | None:
        """The picture's future address, or None where it is left out. Event loop."""
        slot = self._ring.slots[frame.slot]
        height, width = frame.format.height, frame.format.width
        path = self._folder / _name(frame.exposure.id)
        pixels = self._ring.pixels(slot.pixels, frame.format).copy()
        heat = self._ring.heat(slot.heat, height, width).copy()
        try:
            self._queue.put_nowait(_Picture(path, pixels, heat, regions))
        except queue.Full:
            self.left_out += 1
            return None
        return path.absolute().as_uri()

    def close(self) -> None:
        """Writes what waits, then ends. Blocks until done."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (picture := self._queue.get()) is not None:
            try:
                drawn = side_by_side(picture.pixels, picture.heat, picture.regions)
                write_image(picture.path, drawn)
            except Exception as error:  # noqa: BLE001 (one picture must not cost the others)
                self.left_out += 1
                log.warning("evidence left out", problem=str(error), in_all=self.left_out)


def _name(frame: FrameId) -> str:
    return f"{frame.camera}-{frame.epoch}-{frame.sequence:08d}.png"
