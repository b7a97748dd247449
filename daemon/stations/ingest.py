"""INGEST: a camera's own thread, which fills slots of the ring and comes back when it fails.

A camera that cannot be opened, or that no longer answers, is tried again after a pause, as a new
epoch. Every exposure is counted in the ledger before anything else is done with it, and so is each
frame that the camera's own numbers say we never got.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

import clearline
from adapters.errors import SourceError
from adapters.ports import Exposure, Frame, FrameFormat, FrameId, FrameSource, Lease, Reason, Shot
from daemon.records.ledger import Account, Ledger
from daemon.supervise import Backoff
from daemon.worker.ring import Quota, Ring
from model.change import Lately

GAP_TOLD = 64
"""Frames missed in a row that get their verdicts one by one; over more, nobody waits any longer."""
FEW = 1000
"""A count that fell to less than this began anew, and what it numbered before was missed. Where it
fell to more, some message came twice or out of turn."""
OUT_OF_TURN = 16  # frames that a message may come late, or twice
LONGEST_GAP = 10_000_000
"""A number that is further ahead than this is one of another count."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera as the line knows it."""

    line: str
    name: str
    deadline_ns: int
    """From exposure to verdict."""
    make_source: Callable[[], FrameSource]
    """A fresh source for each connection."""


class Desk(Protocol):
    """Who takes what a camera delivers. Called on the event loop, in the order of exposures."""

    def frame(self, frame: Frame) -> None: ...

    def unseen(self, exposure: Exposure, reason: Reason) -> None: ...

    def missed(self, first: FrameId, last: FrameId, reason: Reason) -> None: ...

    def camera_up(self, camera: str, epoch: int) -> None: ...

    def camera_down(self, camera: str, epoch: int, problem: str) -> None: ...


class Ingest:
    """The intake of one camera. Public methods below the line are the source thread's."""

    def __init__(
        self, camera: Camera, ring: Ring, quota: Quota, ledger: Ledger, account: Account, desk: Desk
    ) -> None:
        self.camera, self.done = camera, asyncio.Event()
        self._ring, self._quota, self._ledger = ring, quota, ledger
        self._account, self._desk = account, desk
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._source: FrameSource | None = None
        self._epoch, self._up = 0, False
        self._last: Shot | None = None
        self._lately = Lately()
        self._lent: set[int] = set()
        self._thread = threading.Thread(target=self._run, name=f"ingest-{camera.name}", daemon=True)

    @property
    def up(self) -> bool:
        """Its connection showed frames. From any thread."""
        return self._up

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more exposures; `done` is set once the thread has ended."""
        self._stopping.set()
        self._quota.close()
        if self._source is not None:
            self._source.stop()

    # --- source thread ---

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        slot = self._quota.take(wait=wait)
        if slot is None:
            return None
        place = self._ring.slots[slot]
        if frame.nbytes > place.capacity:
            self._quota.release(slot)
            raise SourceError(
                "is larger than the camera's slots",
                key=f"cameras.{self.camera.name}.max_frame_bytes",
                value=place.capacity,
                expected=f"at least {frame.nbytes} for {frame.width}x{frame.height}",
            )
        self._lent.add(slot)
        return Lease(slot, self._ring.pixels(place.pixels, frame))

    def arrived(self, shot: Shot, lease: Lease) -> None:
        # Kept over connections: a camera that froze shows the same picture after it was reopened.
        changed = self._lately.change(lease.pixels)
        frame = Frame(self._receive(shot), FrameFormat.of(lease.pixels), lease.slot, changed)
        self._lent.discard(lease.slot)
        self._on_loop(self._desk.frame, frame)

    def unseen(self, shot: Shot, reason: Reason) -> None:
        if reason is Reason.OVERLOAD and self._stopping.is_set():
            reason = Reason.SHUTDOWN  # no slot was lent, and none would have been
        self._on_loop(self._desk.unseen, self._receive(shot), reason)

    def _receive(self, shot: Shot) -> Exposure:
        last = self._last
        if last is not None:
            # Deadlines must come in the order of verdicts: a clock that runs back is not followed.
            shot = replace(shot, exposed_ns=max(shot.exposed_ns, last.exposed_ns))
            if shot.sequence <= last.sequence:
                # It counts anew. Two frames of one name would share a verdict.
                self._begin_epoch()
        self._count_missed(shot)
        self._last = shot
        exposure = self._exposure(shot)
        self._account.receive(exposure.id)
        if not self._up:
            self._up = True
            self._on_loop(self._desk.camera_up, self.camera.name, self._epoch)
        return exposure

    def _count_missed(self, shot: Shot) -> None:
        """What the camera numbered since its last frame, and we never got."""
        last = self._last
        epoch, sequence = self._account.last_received
        if last is None and not (epoch and self._source is not None and self._source.counts_on):
            return
        before = sequence if last is None else last.sequence
        if shot.sequence <= before:  # another count, which began at 0
            anew = shot.sequence < FEW and before - shot.sequence > OUT_OF_TURN
            before = -1 if anew else shot.sequence
        missed = shot.sequence - 1 - before
        if not 0 < missed <= LONGEST_GAP:
            return
        if last is not None and missed <= GAP_TOLD:
            for one in _between(last, shot):
                exposure = self._exposure(one)
                self._account.receive(exposure.id)
                self._on_loop(self._desk.unseen, exposure, Reason.CAMERA_GAP)
            return
        first, end = (self._name(shot.sequence - back) for back in (missed, 1))
        self._account.receive(end, missed)
        self._on_loop(self._desk.missed, first, end, Reason.CAMERA_GAP)

    def _exposure(self, shot: Shot) -> Exposure:
        return Exposure(
            self._name(shot.sequence),
            shot.exposed_ns,
            time.time_ns() - (time.monotonic_ns() - shot.exposed_ns),
            shot.exposed_ns + self.camera.deadline_ns,
            shot.part,
        )

    def _name(self, sequence: int) -> FrameId:
        return FrameId(self.camera.line, self.camera.name, self._epoch, sequence)

    def _begin_epoch(self) -> None:
        self._epoch, self._up, self._last = self._ledger.next_epoch(), False, None

    def _run(self) -> None:
        backoff, said = Backoff(), False
        while not self._stopping.is_set():
            problem = self._stream()
            if problem is None:
                break
            if self._up:
                backoff.reset()
            if self._up or not said:  # once for each time that it goes down, not at every try
                self._on_loop(self._desk.camera_down, self.camera.name, self._epoch, problem)
            said = True
            self._stopping.wait(backoff.next())
        self._up = False
        self._on_loop(self.done.set)

    def _stream(self) -> str | None:
        """One connection. Returns why it broke, or None where the camera has no more to show."""
        try:
            self._begin_epoch()
            self._source = self.camera.make_source()
            if self._stopping.is_set():  # `stop` came before there was a source to tell
                return None
            self._source.stream(self)
        except clearline.Error as error:
            return str(error)
        except Exception as error:
            log.exception("camera thread failed", camera=self.camera.name)
            return f"unforeseen: {error!r}"
        finally:
            while self._lent:  # what the source was writing when it failed
                self._quota.release(self._lent.pop())
        return None

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        self._loop.call_soon_threadsafe(call, *args)


def _between(last: Shot, now: Shot) -> list[Shot]:
    """The exposures that were missed, at even distances; their parts where each frame is one."""
    steps = now.sequence - last.sequence
    a_part_each = last.part > 0 and now.part - last.part == steps
    return [
        replace(
            last,
            sequence=last.sequence + step,
            exposed_ns=last.exposed_ns + (now.exposed_ns - last.exposed_ns) * step // steps,
            part=last.part + step if a_part_each else 0,
        )
        for step in range(1, steps)
    ]
