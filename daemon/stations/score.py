"""SCORE: batches to the worker and answers back, and another worker when one dies. Event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from adapters.ports import Frame, Reason
from daemon.deadlines import Kind, ServiceTimes
from daemon.errors import WorkerError
from daemon.stations.batch import Batch, BatchQueue
from daemon.stations.judge import Judge
from daemon.supervise import Backoff
from daemon.worker.handle import WorkerHandle
from daemon.worker.protocol import FrameRef, FromWorker, Refused, Scored
from daemon.worker.protocol import Score as ScoreRequest
from daemon.worker.ring import Ring

DEPTH = 2
"""Batches in the worker's hands: one being scored, one to go on with at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InHand:
    batch: Batch
    sent_ns: int


class Score:
    def __init__(
        self,
        ring: Ring,
        queue: BatchQueue,
        judge: Judge,
        kind_of: Callable[[Frame], Kind],
        release: Callable[[Frame], None],
        start_worker: Callable[[], Awaitable[WorkerHandle]],
    ) -> None:
        self._ring, self._queue, self._judge = ring, queue, judge
        self._kind_of, self._release, self._start_worker = kind_of, release, start_worker
        self._times = ServiceTimes()
        self._worker: WorkerHandle | None = None
        self._in_hand: dict[int, _InHand] = {}
        self._batches = 0
        self._answered_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refused = ""
        self.restarts = 0

    @property
    def ready(self) -> bool:
        return self._worker is not None

    @property
    def idle(self) -> bool:
        """The worker has nothing in its hands, and nothing waits for it."""
        return not self._in_hand and not self._queue.waiting()

    @property
    def worker(self) -> WorkerHandle | None:
        return self._worker

    async def start(self) -> None:
        """The first worker. Raises WorkerError: what it cannot do now it will not do later."""
        self._worker = await self._start_worker()

    async def run(self) -> None:
        """Serve until cancelled; a worker that dies is followed by another after a pause."""
        backoff = Backoff()
        while True:
            if self._worker is not None:
                await self._serve(self._worker)
                self.restarts += 1
                log.error("worker gone", restarts=self.restarts)
            await asyncio.sleep(backoff.next())
            try:
                await self.start()
                backoff.reset()
            except (WorkerError, OSError) as error:
                log.error("worker does not come up", problem=str(error))

    async def _serve(self, worker: WorkerHandle) -> None:
        """Returns, or is cancelled, with the worker waited for: then its slots are free again."""
        try:
            await worker.serve(self._receive)
        finally:
            self._worker = None
            held = [f for hand in self._in_hand.values() for f in hand.batch.frames]
            self._in_hand.clear()
            for frame in (*held, *self._queue.clear()):
                self._judge.uninspected(frame.exposure, Reason.WORKER_RESTART)
                self._release(frame)

    def pump(self) -> None:
        """Give the worker what it can take. Called whenever a frame, an answer or a time comes."""
        now_ns = time.monotonic_ns()
        for frame in self._queue.expired(now_ns):
            self._release(frame)
        while self._worker is not None and len(self._in_hand) < DEPTH:
            batch = self._queue.take(now_ns, idle=not self._in_hand)
            if batch is None:
                break
            self._send(self._worker, batch, now_ns)
        self._wake_when_due()

    def backlog_ns(self) -> int:
        """What the worker has still to do for the frames that are before a new one."""
        hands = [(h.batch.kind, len(h.batch.frames)) for h in self._in_hand.values()]
        before = (*hands, *self._queue.waiting().items())
        return int(sum(self._times.per_frame_ns(kind) * count for kind, count in before))

    def service_ns(self, frame: Frame) -> int:
        return int(self._times.per_frame_ns(self._kind_of(frame)))

    def _send(self, worker: WorkerHandle, batch: Batch, now_ns: int) -> None:
        self._batches += 1
        self._in_hand[self._batches] = _InHand(batch, now_ns)
        slots = [self._ring.slots[frame.slot] for frame in batch.frames]
        frames = tuple(
            FrameRef(slot.pixels, slot.heat, frame.format)
            for slot, frame in zip(slots, batch.frames, strict=True)
        )
        try:
            worker.send(ScoreRequest(self._batches, batch.kind[0], frames))
        except OSError as error:
            # It is dying: `serve` sees the end of file next, and answers for what is in its hands.
            log.warning("worker takes nothing", problem=error.strerror)

    def _receive(self, message: FromWorker) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(message, Scored):
            hand = self._in_hand.pop(message.batch)
            began_ns = max(hand.sent_ns, self._answered_ns)
            self._times.observe(hand.batch.kind, len(hand.batch.frames), now_ns - began_ns)
            self._answered_ns = now_ns
            for frame, result in zip(hand.batch.frames, message.results, strict=True):
                self._judge.answered(frame, result)
                self._release(frame)
        elif isinstance(message, Refused):
            if message.problem != self._refused:  # said once, not for every batch
                self._refused = message.problem
                log.warning("model refuses frames", problem=message.problem)
            for frame in self._in_hand.pop(message.batch).batch.frames:
                self._judge.uninspected(frame.exposure, Reason.NO_MODEL)
                self._release(frame)
        self.pump()

    def _wake_when_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        takes_more = self._worker is not None and len(self._in_hand) < DEPTH
        due_ns = self._queue.next_due_ns() if takes_more else None
        if due_ns is not None:
            self._timer = asyncio.get_running_loop().call_at(due_ns / 1e9, self.pump)
