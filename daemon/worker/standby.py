"""The worker that stands by: it holds torch and the models already when the present one dies."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daemon.errors import WorkerError
from daemon.supervise import Backoff
from daemon.worker.handle import WorkerHandle

log = structlog.get_logger()


class Standby:
    """While `run` runs, one worker is ready or in the making. On the event loop."""

    def __init__(self, start: Callable[[], Awaitable[WorkerHandle]]) -> None:
        self._start = start
        self._worker: WorkerHandle | None = None
        self._stands, self._taken = asyncio.Event(), asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._worker is not None and not self._worker.gone.is_set()

    async def take(self) -> WorkerHandle:
        """The worker, from now on the caller's. Waits only where none is ready."""
        while self._worker is None or self._worker.gone.is_set():
            self._stands.clear()
            await self._stands.wait()
        worker, self._worker = self._worker, None
        self._taken.set()
        return worker

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                worker = self._worker = await self._start()
            except (WorkerError, OSError) as error:
                log.error("worker does not come up", problem=str(error))
                await asyncio.sleep(backoff.next())
                continue
            except Exception:
                # No memory, no thread: without this task the next death would be the last.
                log.exception("worker does not come up, and nobody foresaw why")
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            log.info("a worker stands by", pid=worker.pid)
            self._taken.clear()
            self._stands.set()
            ends = {asyncio.ensure_future(e.wait()) for e in (worker.gone, self._taken)}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()

    async def end(self) -> None:
        if self._worker is not None:
            await self._worker.end()
