"""SCORE: batches to the worker and answers back, and the next worker when one dies. Event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from adapters.ports import Frame, Reason
from daemon.deadlines import Kind, ServiceTimes
from daemon.stations.batch import Batch, BatchQueue
from daemon.stations.judge import Judge
from daemon.stations.second_try import SecondTries
from daemon.worker.handle import WorkerHandle
from daemon.worker.protocol import FrameRef, FromWorker, Refused, Scored
from daemon.worker.protocol import Score as ScoreRequest
from daemon.worker.ring import Ring
from daemon.worker.standby import Standby

HANG_SECONDS = 30.0
HANG_FACTOR = 20
"""A batch may take so many times what it should, and HANG_SECONDS where nothing is known yet."""
DEPTH = 2
"""Batches in the worker's hands: one being scored, one to go on with at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InHand:
    batch: Batch
    sent_ns: int
    overdue: asyncio.TimerHandle


class Score:
    def __init__(
        self,
        ring: Ring,
        queue: BatchQueue,
        judge: Judge,
        kind_of: Callable[[Frame], Kind],
        release: Callable[[Frame], None],
        start_worker: Callable[[], Awaitable[WorkerHandle]],
        second_tries: SecondTries,
    ) -> None:
        self._ring, self._queue, self._judge = ring, queue, judge
        self._kind_of, self._release, self._start_worker = kind_of, release, start_worker
        self._second_tries = second_tries
        self._standby = Standby(start_worker)
        self._times = ServiceTimes()
        self._worker: WorkerHandle | None = None
        self._in_hand: dict[int, _InHand] = {}
        self._trial: int | None = None
        """The batch in hand that is a second try: nothing else is, beside it."""
        self._batches = 0
        self._answered_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refused = ""
        self.restarts = 0

    @property
    def ready(self) -> bool:
        return self._worker is not None

    @property
    def alive(self) -> bool:
        """There is a worker, and it was heard a moment ago."""
        return self._worker is not None and self._worker.silent_beats <= 2

    @property
    def idle(self) -> bool:
        """The worker has nothing in its hands, and nothing waits for it."""
        return not self._in_hand and not self._queue.waiting()

    @property
    def worker(self) -> WorkerHandle | None:
        return self._worker

    async def start(self) -> None:
        """The first worker. Raises WorkerError: what it cannot do now it will not do later."""
        self._serve_with(await self._start_worker())

    async def run(self) -> None:
        """Serve until cancelled; a worker that dies is followed by the one that stands by."""
        standing_by = asyncio.create_task(self._standby.run(), name="standby")
        try:
            while (worker := self._worker) is not None:
                await worker.gone.wait()
                self._mourn()
                self._serve_with(await self._standby.take())
        finally:
            standing_by.cancel()
            await asyncio.wait({standing_by})
            await self._standby.end()
            if self._worker is not None:
                worker, self._worker = self._worker, None
                await worker.end()
                self._let_go(queued=True)

    def _serve_with(self, worker: WorkerHandle) -> None:
        worker.receive = self._receive
        self._worker = worker
        self.pump()

    def _mourn(self) -> None:
        """The worker was waited for, so that its slots are free again."""
        self.restarts += 1
        log.error("worker gone", restarts=self.restarts, another_stands_by=self._standby.ready)
        self._worker = None
        held = [frame for hand in self._in_hand.values() for frame in hand.batch.frames]
        self._second_tries.remember(held)
        self._let_go(queued=not self._standby.ready)

    def _let_go(self, *, queued: bool) -> None:
        """Of what the worker had in its hands; also of what waited for it (`queued`)."""
        held = [frame for b in list(self._in_hand) for frame in self._take_back(b).batch.frames]
        self._trial = None
        for frame in (*held, *(self._queue.clear() if queued else ())):
            self._judge.uninspected(frame.exposure, Reason.WORKER_RESTART)
            self._release(frame)

    def pump(self) -> None:
        """Give the worker what it can take. Called whenever a frame, an answer or a time comes."""
        now_ns = time.monotonic_ns()
        for frame in self._queue.expired(now_ns):
            self._release(frame)
        while self._worker is not None and self._takes_more:
            batch = self._queue.take(now_ns, idle=not self._in_hand)
            if batch is None:
                break
            self._send(self._worker, batch, now_ns)
        # Only where nobody waits, and where another worker's death would cost no time.
        if self._worker is not None and self.idle and self._standby.ready:
            self._try_again(self._worker, now_ns)
        self._wake_when_due()

    @property
    def _takes_more(self) -> bool:
        return len(self._in_hand) < DEPTH and self._trial is None

    def _try_again(self, worker: WorkerHandle, now_ns: int) -> None:
        frame = self._second_tries.next()
        if frame is not None:
            self._send(worker, Batch(self._kind_of(frame), (frame,)), now_ns)
            self._trial = self._batches

    def backlog_ns(self) -> int:
        """What the worker has still to do for the frames that are before a new one."""
        hands = [(h.batch.kind, len(h.batch.frames)) for h in self._in_hand.values()]
        before = (*hands, *self._queue.waiting().items())
        return int(sum(self.per_frame_ns(kind) * count for kind, count in before))

    def service_ns(self, frame: Frame) -> int:
        return int(self.per_frame_ns(self._kind_of(frame)))

    def per_frame_ns(self, kind: Kind) -> float:
        """What the worker takes for a frame of a kind, as measured lately; 0 where it never did."""
        return self._times.per_frame_ns(kind)

    def _send(self, worker: WorkerHandle, batch: Batch, now_ns: int) -> None:
        self._batches += 1
        loop = asyncio.get_running_loop()
        due_s = self.per_frame_ns(batch.kind) * len(batch.frames) / 1e9
        patience_s = max(HANG_SECONDS, HANG_FACTOR * due_s)
        overdue = loop.call_later(patience_s, self._hangs, worker, patience_s)
        self._in_hand[self._batches] = _InHand(batch, now_ns, overdue)
        slots = [self._ring.slots[frame.slot] for frame in batch.frames]
        frames = tuple(
            FrameRef(slot.pixels, slot.heat, frame.format, frame.change)
            for slot, frame in zip(slots, batch.frames, strict=True)
        )
        try:
            worker.send(ScoreRequest(self._batches, batch.kind[0], frames))
        except OSError as error:
            # It is dying: `run` hears of it next, and answers for what is in its hands.
            log.warning("worker takes nothing", problem=error.strerror)

    def _receive(self, message: FromWorker) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(message, Scored | Refused) and message.batch == self._trial:
            self._trial = None
            self._second_tries.answered()
        if isinstance(message, Scored):
            hand = self._take_back(message.batch)
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
            for frame in self._take_back(message.batch).batch.frames:
                self._judge.uninspected(frame.exposure, Reason.NO_MODEL)
                self._release(frame)
        self.pump()

    def _take_back(self, batch: int) -> _InHand:
        hand = self._in_hand.pop(batch)
        hand.overdue.cancel()
        return hand

    def _hangs(self, worker: WorkerHandle, patience_s: float) -> None:
        """It says that it is alive, and answers nothing: the device may hang."""
        log.error("worker does not answer", pid=worker.pid, patience_s=patience_s)
        worker.kill()

    def _wake_when_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        takes_more = self._worker is not None and self._takes_more
        due_ns = self._queue.next_due_ns() if takes_more else None
        if due_ns is not None:
            self._timer = asyncio.get_running_loop().call_at(due_ns / 1e9, self.pump)
