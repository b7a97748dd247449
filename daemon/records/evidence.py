"""Evidence: pictures of every defect, and of every frame that killed two workers.

Before a verdict is told only room is reserved. When the frame's slot is done with, one thread
copies out of the ring and gives the slot back; it touches no disk, so that a hung one holds no
slot. Another draws, encodes, writes and tidies the folder. Where they cannot follow, pictures are
left out and counted: a verdict never waits for one.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from adapters.evidence_files import Provenance, stem
from adapters.ports import Frame, Pixels
from daemon.records.buffers import Buffers
from daemon.records.folder_limit import FolderLimit, remove_unfinished
from daemon.records.pictures import Keeping, Waiting, files_of, room_for, write
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring

WAITING, WAITING_BYTES = 64, 256 << 20
"""Frames between loop and thread."""
MOST_ASIDE = 100
"""Frames set aside in a run: a camera that sends nothing else must not fill the disk."""
PAUSE_SECONDS = 60.0
"""How long nothing is kept after room was asked for."""
TIDY_SECONDS = 60.0
"""Pictures grow old also where no new ones come."""
CLOSE_SECONDS = 5.0
"""So long the stop waits for pictures, in all."""
QUIET_SECONDS = 10.0
"""Between two warnings: a disk that takes nothing fails every picture."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class References:
    """Addresses of pictures that will be there soon; None where that kind is not kept."""

    image: str | None
    """What a person looks at."""
    frame: str | None
    """The whole frame, as scored."""


class Evidence:
    def __init__(
        self,
        folder: Path | None,
        keeping: Keeping,
        aside: Path,
        ring: Ring,
        provenance: Mapping[str, Provenance],
    ) -> None:
        """Defects go into `folder`, where there is one; frames set aside into `aside`.
        `provenance`: who judges, by recipe."""
        self._folder, self._keeping, self._aside = folder, keeping, aside
        self._ring, self._provenance = ring, provenance
        # Without a folder it is never told of a file, and so deletes none.
        self._limit = FolderLimit(folder or aside, keeping.max_bytes, keeping.max_age_hours)
        self._buffers = Buffers(WAITING, WAITING_BYTES)
        self._reserved: dict[int, Waiting] = {}  # by slot
        self._lock = threading.Lock()
        self._ended = False
        self.left_out = 0
        """Frames whose pictures were never written, or not all of them."""
        self.given_up = 0
        """Frames whose pictures were deleted before their time, for want of room."""
        self._asides = 0
        self._nothing_until = 0.0  # monotonic
        self._failures, self._quiet_until = 0, 0.0  # not yet told; monotonic
        self._copies: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._copier = threading.Thread(target=self._run_copier, name="evidence-copy", daemon=True)
        self._writer = threading.Thread(target=self._run_writer, name="evidence", daemon=True)
        self._copier.start()
        self._writer.start()

    def keep(self, frame: Frame, result: Result, device: str) -> References | None:
        """Reserves room for a defect's pictures: `take` must follow before the frame's slot is used
        again. None: they are left out. Costs microseconds. Event loop."""
        self._drop(self._reserved.pop(frame.slot, None))
        files = {} if self._folder is None else files_of(frame, self._keeping, self._folder)
        if not files:
            return None
        buffer = None if self._paused() else self._buffers.lend(room_for(frame))
        if buffer is None:
            self._leave_out()
            return None
        provenance = self._provenance[frame.recipe]
        self._reserved[frame.slot] = Waiting(frame, result, device, provenance, files, buffer)
        addresses = {kind: path.absolute().as_uri() for kind, path in files.items()}
        return References(addresses.get("crop"), addresses.get("frame"))

    def take(self, frame: Frame, give_back: Callable[[], None]) -> None:
        """The frame's slot is done with: what was reserved is copied, then `give_back` is called,
        here or in the copying thread, whatever happens. Event loop."""
        waiting = self._reserved.pop(frame.slot, None)
        if waiting is not None and waiting.frame.exposure.id == frame.exposure.id:
            self._copies.put(partial(self._copy, waiting, give_back))
            return
        self._drop(waiting)
        give_back()

    def set_aside(self, frame: Frame, pixels: Pixels) -> str | None:
        """The raw picture, bit by bit. Its address, or None where it is left out. Event loop."""
        self._asides += 1
        fits = self._asides <= MOST_ASIDE and not self._paused()
        buffer = self._buffers.lend(room_for(frame)) if fits else None
        if buffer is None:
            self._leave_out()
            return None
        path = self._aside / f"{stem(frame.exposure.id)}.png"
        provenance = self._provenance[frame.recipe]
        waiting = Waiting(frame, None, None, provenance, {"frame": path}, buffer)
        np.copyto(waiting.pixels, pixels)
        self._writes.put(partial(self._write, waiting))
        return path.absolute().as_uri()

    def give_way(self) -> None:
        """The disk is short: delete the oldest pictures, and keep none for a minute. Returns at
        once. From any thread."""
        self._nothing_until = time.monotonic() + PAUSE_SECONDS
        self._writes.put(self._give_up)

    def close(self) -> None:
        """Writes what waits, then ends. Blocks until done, but no longer than `CLOSE_SECONDS`: the
        rest is left out. Event loop."""
        until = time.monotonic() + CLOSE_SECONDS
        for work, thread in ((self._copies, self._copier), (self._writes, self._writer)):
            work.put(None)
            thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            unwritten = 0 if self._ended else self._buffers.lent
            self._ended = True
            self.left_out += unwritten
        if unwritten:
            log.warning("evidence left out at the stop", frames=unwritten)

    def _paused(self) -> bool:
        return time.monotonic() < self._nothing_until

    def _drop(self, waiting: Waiting | None) -> None:
        """A frame that never came to `take`: what stands in its slot now is another's picture."""
        if waiting is not None:
            self._done(waiting, whole=False)

    def _done(self, waiting: Waiting, *, whole: bool) -> None:
        with self._lock:
            self._buffers.give_back(waiting.buffer)
            if not whole and not self._ended:  # else it is counted already
                self.left_out += 1

    def _leave_out(self) -> None:
        with self._lock:
            self.left_out += 1

    def _run_copier(self) -> None:
        while (work := self._copies.get()) is not None:
            self._try(work)

    def _copy(self, waiting: Waiting, give_back: Callable[[], None]) -> None:
        slot, form = self._ring.slots[waiting.frame.slot], waiting.frame.format
        try:
            np.copyto(waiting.pixels, self._ring.pixels(slot.pixels, form))
            np.copyto(waiting.heat, self._ring.heat(slot.heat, form.height, form.width))
        except BaseException:
            self._drop(waiting)
            raise
        else:
            self._writes.put(partial(self._write, waiting))
        finally:
            give_back()

    def _run_writer(self) -> None:
        self._try(self._begin)
        tidy_at = time.monotonic() + TIDY_SECONDS
        while not self._ended:
            try:
                work = self._writes.get(timeout=max(0.0, tidy_at - time.monotonic()))
            except queue.Empty:
                work, tidy_at = self._limit.enforce, time.monotonic() + TIDY_SECONDS
            if work is None:
                return
            self._try(work)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (nothing may cost the pictures to come)
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """The first, and then one now and again, with how many there were since."""
        with self._lock:
            self._failures += 1
            if time.monotonic() < self._quiet_until:
                return
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            failures, self._failures = self._failures, 0
        log.warning("evidence", problem=str(error), failures=failures, left_out=self.left_out)

    def _begin(self) -> None:
        remove_unfinished(self._aside)
        if self._folder is not None:
            self._limit.look()

    def _write(self, waiting: Waiting) -> None:
        whole = False
        try:
            if not self._paused():
                for path in write(waiting):
                    if waiting.result is not None:
                        self._limit.wrote(path)
                whole = True
        finally:
            self._done(waiting, whole=whole)
        self._limit.enforce()
        self._buffers.make_ready(waiting.buffer.size)

    def _give_up(self) -> None:
        frames = self._limit.give_up()
        self.given_up += frames
        log.warning("evidence given up: the disk is short", frames=frames)
