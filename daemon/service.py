"""The line at work: start, run, drain, stop."""

import asyncio
import contextlib
import gc
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import structlog

from adapters.ports import Reason
from daemon import events
from daemon.drift import DriftWatch
from daemon.errors import StateError
from daemon.events import Line
from daemon.plc import Plc
from daemon.pulse import PERIOD_MS
from daemon.recipes import Recipes
from daemon.records.drain import Drain
from daemon.records.evidence import Evidence
from daemon.records.ledger import Account, Ledger
from daemon.records.outbox import Outbox
from daemon.records.reported import Reported
from daemon.stations.ingest import Ingest
from daemon.stations.judge import Judge
from daemon.stations.publish import Publish
from daemon.stations.score import Score
from daemon.worker.ring import Ring

SUMMARY_SECONDS = 60

log = structlog.get_logger()


@dataclass(frozen=True)
class Parts:
    """What a service is made of; `daemon.wiring` puts it together."""

    claims: Sequence[IO[bytes]]
    """Of the state folder and that of the evidence; closed at the very end."""
    line: Line
    ledger: Ledger
    ring: Ring
    ingests: Sequence[Ingest]
    score: Score
    judge: Judge
    publish: Publish
    recipes: Recipes
    plc: Plc | None
    outbox: Outbox
    drains: Mapping[str, Drain]
    """One for each sink."""
    evidence: Evidence
    drift: DriftWatch
    drain_seconds: float


async def serve(service: "Service") -> None:
    """A whole life of the line. Raises clearline.Error where it cannot start."""
    try:
        await service.start()
        await service.run()
        await service.drain()
    finally:
        await service.stop()


class Service:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._drainers: list[asyncio.Task[None]] = []
        self._started = False
        self._pictures_said = 0
        self._pictures_since_ns = time.time_ns()

    async def start(self) -> None:
        """What an earlier run left open is announced; then the worker, then the cameras."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        self._drainers = [
            self._spawn(f"drain {name}", drain.run()) for name, drain in self.parts.drains.items()
        ]
        if self.parts.plc is not None:
            self._spawn("plc", self.parts.plc.run())
            self._spawn("beat", self._every(PERIOD_MS / 1000, self.parts.plc.beat))
            self.parts.plc.show()
        await self._announce_gaps()
        log.info("waiting for the worker")  # it loads torch and the bundles: some seconds
        if not await self._unless_stopped(self.parts.score.start()):
            return
        self._started = True
        self.parts.publish.of_line(
            "started", {"cameras": [i.camera.name for i in self.parts.ingests]}
        )
        log.info("started", line=self.parts.line.name, cameras=len(self.parts.ingests))
        self._spawn("score", self.parts.score.run())
        self._spawn("runs", self._every(1, self.parts.publish.end_runs))
        self._spawn("summary", self._every(SUMMARY_SECONDS, self._summarise))
        self._spawn("drift", self._every(SUMMARY_SECONDS, self._look_for_drift))
        # What stands now stands for good: the collector need not look at it again, which would
        # keep the loop for tens of milliseconds.
        gc.freeze()
        for ingest in self.parts.ingests:
            ingest.start()

    async def run(self) -> None:
        """Until a stop is asked for, every camera has shown its last frame, or a part fails."""
        stopping = asyncio.create_task(self._stopping.wait())
        shown = asyncio.create_task(self._all_shown())
        died = asyncio.wrap_future(self.parts.outbox.died)
        watched: set[asyncio.Future[Any]] = {stopping, shown, died, *self._tasks.values()}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (stopping, shown):
            waiting.cancel()
        if died.done():  # what happens would be recorded nowhere
            raise StateError("ended", file=self.parts.outbox.path) from died.exception()

    async def drain(self) -> None:
        """No more exposures; what is in flight gets its verdict, by `shutdown` where it must."""
        if not self._started:
            return
        for ingest in self.parts.ingests:
            ingest.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.parts.drain_seconds):
                await self._all_shown()
                await self.parts.judge.idle.wait()
        self.parts.judge.decide_all(Reason.SHUTDOWN)

    async def stop(self) -> None:
        """Everything ends in the order in which data flows. Raises what made a part fail."""
        parts = self.parts
        async with contextlib.AsyncExitStack() as closing:  # from the last line up, whatever fails
            for claim in parts.claims:
                closing.callback(claim.close)
            closing.callback(parts.ring.close)
            closing.callback(parts.outbox.close)
            for drain in parts.drains.values():
                closing.push_async_callback(drain.close)
            closing.callback(parts.evidence.close)
            for ingest in parts.ingests:
                ingest.stop()
            tasks = [task for task in self._tasks.values() if task not in self._drainers]
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            parts.publish.finish()
            self._tell_lost_pictures()
            if self._started:
                self.parts.publish.of_line("stopped", self._counts())
            if self._drainers:
                for drain in parts.drains.values():
                    drain.finish()
                await asyncio.wait(self._drainers, timeout=parts.drain_seconds)
                for task in self._drainers:
                    task.cancel()
                ended += await asyncio.gather(*self._drainers, return_exceptions=True)
            with contextlib.suppress(TimeoutError, sqlite3.Error):
                async with asyncio.timeout(parts.drain_seconds):
                    left = await asyncio.wrap_future(parts.outbox.depth())
                    log.info("stopped", events_left=left)
        gc.unfreeze()
        for result in ended:
            if isinstance(result, Exception):
                raise result

    def request_stop(self) -> None:
        if self.parts.plc is not None:
            self.parts.plc.pulse.halted = True
        self._stopping.set()

    async def _announce_gaps(self) -> None:
        """First the event, durable, then the ledger: a kill in between says it twice, not never.
        Where there is no room for the event the gap stays open, for the next start to announce."""
        for account in self.parts.ledger.accounts():
            try:
                await self._announce_gap(account)
            except sqlite3.Error as error:  # the disk takes nothing: verdicts need none
                log.error("not announced", camera=account.camera, problem=str(error))

    async def _announce_gap(self, account: Account) -> None:
        """Raises sqlite3.Error."""
        outbox = self.parts.outbox
        told = await asyncio.wrap_future(outbox.reported(account.camera))
        counts, gap = account.counts(), account.gap()
        uninspected, last = sum(counts.uninspected.values()), account.last_received
        lost: dict[str, dict[str, Any]] = {}
        if told is not None and told.is_behind(counts.defect, uninspected):
            lost["unreported"] = events.unreported(told, counts.defect, uninspected, last)
        if gap is not None:
            lost["unrecorded"] = events.unrecorded(gap)
            uninspected += gap.count
        for kind, data in lost.items():
            log.warning(kind, **data)
            event = self.parts.publish.line_event(kind, data)
            if not await asyncio.wrap_future(outbox.store(event)):
                log.error("not announced: no room in the outbox", camera=account.camera)
                return
        account.close_gap()
        known = Reported(account.camera, counts.defect, uninspected, *last)
        await asyncio.wrap_future(outbox.settle(known))

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` was done before a stop was asked for."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True

    async def _all_shown(self) -> None:
        for ingest in self.parts.ingests:
            await ingest.done.wait()

    async def _every(self, seconds: float, call: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            call()

    def _summarise(self) -> None:
        self.parts.publish.of_line("summary", self._counts())
        self._tell_lost_pictures()

    def _tell_lost_pictures(self) -> None:
        lost = self.parts.evidence.left_out + self.parts.evidence.given_up
        if lost > self._pictures_said:
            said = events.shed_pictures(self._pictures_since_ns, lost - self._pictures_said)
            self.parts.publish.of_line("shed", said)
            self._pictures_said, self._pictures_since_ns = lost, time.time_ns()

    def _look_for_drift(self) -> None:
        for change in self.parts.drift.look():
            log.warning("drift", **asdict(change))
            self.parts.publish.of_line("drift", asdict(change))

    def _counts(self) -> dict[str, Any]:
        accounts = self.parts.ledger.accounts()
        return events.summary({account.camera: account.counts() for account in accounts})

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        return task
