"""The drainer: the one task that brings a sink the outbox's events. At least once, in order."""

import asyncio
import contextlib
import sqlite3

import structlog

from adapters.errors import SinkError
from adapters.ports import EventSink
from daemon.records.outbox import Outbox
from daemon.supervise import Backoff

BATCH = 256
LOOK_SECONDS = 5.0
"""Also without a commit of ours: another process may have put dead letters back."""
log = structlog.get_logger()


class Drain:
    def __init__(self, outbox: Outbox, name: str, sink: EventSink) -> None:
        """`name`: of the sink's cursor."""
        self._outbox, self._name, self._sink = outbox, name, sink
        self._loop = asyncio.get_running_loop()
        self._committed = asyncio.Event()
        self._finishing = asyncio.Event()

    async def run(self) -> None:
        """Until `finish`. What the far end did not take is tried again after a pause."""
        self._outbox.on_commit.append(self._wake)
        try:
            await self._run()
        finally:
            self._outbox.on_commit.remove(self._wake)

    def finish(self) -> None:
        """`run` sends once more what is there, and returns."""
        self._finishing.set()
        self._committed.set()

    async def close(self) -> None:
        await self._sink.close()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            last = self._finishing.is_set()
            self._committed.clear()
            try:
                await self._send_all()
            except (SinkError, sqlite3.Error) as error:
                pause = backoff.next()
                log.warning("events wait", sink=self._name, problem=str(error), retry_s=pause)
                with contextlib.suppress(TimeoutError):  # new events do not shorten the pause
                    async with asyncio.timeout(pause):
                        await self._finishing.wait()
            else:
                backoff.reset()
                if not last:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await self._committed.wait()
            if last:
                return

    def _wake(self) -> None:
        """Outbox's thread."""
        self._loop.call_soon_threadsafe(self._committed.set)

    async def _send_all(self) -> None:
        batch = await asyncio.wrap_future(self._outbox.after(self._name, None, BATCH))
        while batch:
            seq = batch[-1].seq
            ahead = self._outbox.after(self._name, seq, BATCH)  # read while the sink is busy
            refused = await self._sink.send([stored.event for stored in batch])
            for one in refused:
                log.error(
                    "event refused", sink=self._name, event_id=one.event.id, reason=one.reason
                )
            await asyncio.wrap_future(self._outbox.acknowledge(self._name, seq, refused))
            batch = await asyncio.wrap_future(ahead)
