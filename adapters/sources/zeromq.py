"""A camera over ZeroMQ: a PC beside it sends each picture as one message (`frame_message`).

Nothing waits here: a frame that finds no slot is lost and reported, and the sender's own numbers
tell what never came. A sender that went away is no error; ZeroMQ connects again by itself.
Everything but `stop` happens in the thread that calls `stream`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import structlog
import zmq

import clearline
from adapters.errors import FrameMessageError, SourceError
from adapters.ports import Intake, Reason, Shot
from adapters.sources.frame_message import (
    PIXEL_BYTES,
    FrameHeader,
    decode_header,
    decode_pixels,
)

STOP_MS = 50
"""How long a wait for a message lasts before `stop` is looked for."""
HEARTBEAT_MS = 1000
"""A sender that does not answer for so long is connected to anew; a PC that lost its power never
says goodbye, and a socket that only receives would wait for it for ever."""
QUEUE_FRAMES = 16
"""Only for the moments in which this thread does not run: queueing is the ring's business."""
OLDEST_NS = 3_600_000_000_000
"""An exposure longer ago than this was timed by another clock."""

_KINDS = {"pull": zmq.PULL, "sub": zmq.SUB}

log = structlog.get_logger()


class ZeroMqSource:
    counts_on = True

    def __init__(self, address: str, socket: Literal["pull", "sub"], *, bind: bool = False) -> None:
        """`address`: `tcp://HOST:PORT` or `ipc://PATH`, one a camera, which the sender binds;
        with `bind` it connects, and the address is ours."""
        self._address, self._kind, self._bind = address, socket, bind
        self._stopped = threading.Event()
        self._refused = _Refused(address)

    def stream(self, intake: Intake) -> None:
        """Raises SourceError where the address cannot be used; a silent sender is not noticed."""
        with self._open() as socket:
            while not self._stopped.is_set():
                self._refused.say()
                try:
                    parts = socket.recv_multipart(copy=False)
                except zmq.Again:
                    continue
                self._take(intake, parts)

    def stop(self) -> None:
        self._stopped.set()

    @contextmanager
    def _open(self) -> Iterator[zmq.Socket[bytes]]:
        try:
            with zmq.Context() as context, context.socket(_KINDS[self._kind]) as socket:
                socket.linger = 0
                socket.rcvhwm = QUEUE_FRAMES
                socket.rcvtimeo = STOP_MS
                socket.maxmsgsize = PIXEL_BYTES  # else a claim alone could make it allocate
                socket.heartbeat_ivl = socket.connect_timeout = HEARTBEAT_MS
                if self._kind == "sub":
                    socket.subscribe(b"")
                (socket.bind if self._bind else socket.connect)(self._address)
                yield socket
        except zmq.ZMQError as error:
            raise SourceError(
                f"cannot be used: {error.strerror}", key="address", value=self._address,
                expected="tcp://HOST:PORT or ipc://PATH",
            ) from error  # fmt: skip

    def _take(self, intake: Intake, parts: list[zmq.Frame]) -> None:
        try:
            header = decode_header(parts[0].buffer)
        except FrameMessageError as error:  # without a number, it shows as a gap in them
            self._refused.count(error)
            return
        shot = _shot(header)
        try:
            pixels = decode_pixels(header, [part.buffer for part in parts[1:]])
        except FrameMessageError as error:
            self._refused.count(error)
            intake.unseen(shot, Reason.CORRUPT)
            return
        lease = intake.lend(header.format, wait=False)
        if lease is None:
            intake.unseen(shot, Reason.OVERLOAD)
            return
        np.copyto(lease.pixels, pixels)
        intake.arrived(shot, lease)


def _shot(header: FrameHeader) -> Shot:
    # Never after its arrival, so that a wrong clock can only shorten the time to the deadline.
    exposed_ns = now_ns = time.monotonic_ns()
    if header.exposed_ns is not None and now_ns - OLDEST_NS <= header.exposed_ns <= now_ns:
        exposed_ns = header.exposed_ns
    return Shot(header.sequence, exposed_ns, part=header.part)


class _Refused:
    """Messages that cannot be used: counted, and logged at most once a second."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._messages, self._said_s = 0, -1.0
        self._last: clearline.Error | None = None

    def count(self, error: FrameMessageError) -> None:
        self._messages, self._last = self._messages + 1, error

    def say(self) -> None:
        if self._messages and time.monotonic() - self._said_s >= 1:
            log.warning(
                "messages refused", address=self._address, messages=self._messages,
                last=str(self._last),
            )  # fmt: skip
            self._messages, self._said_s = 0, time.monotonic()
