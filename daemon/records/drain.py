"""The drainer: the one task that empties the outbox into a sink. At least once, in order."""

import asyncio
import contextlib

import structlog

from adapters.errors import SinkError
from adapters.ports import EventSink
from daemon.records.outbox import Outbox
from daemon.supervise import Backoff

BATCH = 256
log = structlog.get_logger()


class Drain:
    def __init__(self, outbox: Outbox, sink: EventSink) -> None:
        self._outbox, self._sink = outbox, sink
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._finishing = False
        outbox.on_commit = self._committed

    async def run(self) -> None:
        """Until `finish`. What the far end did not take is tried again after a pause."""
        backoff = Backoff()
        while True:
            last = self._finishing
            self._wake.clear()
            pause = None
            try:
                await self._send_all()
                backoff.reset()
            except SinkError as error:
                pause = backoff.next()
                log.warning("events wait", problem=str(error), retry_s=pause)
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def finish(self) -> None:
        """`run` sends once more what is there, and returns."""
        self._finishing = True
        self._wake.set()

    def _committed(self) -> None:
        """Outbox's thread."""
        self._loop.call_soon_threadsafe(self._wake.set)

    async def _send_all(self) -> None:
        while batch := await asyncio.wrap_future(self._outbox.oldest(BATCH)):
            await self._sink.send([stored.event for stored in batch])
            await asyncio.wrap_future(self._outbox.acknowledge(batch[-1].seq))
