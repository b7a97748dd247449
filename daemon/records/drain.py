"""The drainer: the one task that empties the outbox into a sink. At least once, in order."""

import asyncio
import contextlib
import sqlite3

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
        self._committed = asyncio.Event()
        self._finishing = asyncio.Event()
        outbox.on_commit = self._wake

    async def run(self) -> None:
        """Until `finish`. What the far end did not take is tried again after a pause."""
        backoff = Backoff()
        while True:
            last = self._finishing.is_set()
            self._committed.clear()
            try:
                await self._send_all()
            except (SinkError, sqlite3.Error) as error:
                pause = backoff.next()
                log.warning("events wait", problem=str(error), retry_s=pause)
                with contextlib.suppress(TimeoutError):  # new events do not shorten the pause
                    async with asyncio.timeout(pause):
                        await self._finishing.wait()
            else:
                backoff.reset()
                if not last:
                    await self._committed.wait()
            if last:
                return

    def finish(self) -> None:
        """`run` sends once more what is there, and returns."""
        self._finishing.set()
        self._committed.set()

    def _wake(self) -> None:
        """Outbox's thread."""
        self._loop.call_soon_threadsafe(self._committed.set)

    async def _send_all(self) -> None:
        while batch := await asyncio.wrap_future(self._outbox.oldest(BATCH)):
            await self._sink.send([stored.event for stored in batch])
            await asyncio.wrap_future(self._outbox.acknowledge(batch[-1].seq))
