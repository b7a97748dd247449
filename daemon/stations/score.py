"""SCORE: batches to the worker and answers back, and the next worker when one dies. Event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

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

HANG_SECONDS, HANG_FACTOR = 2.0, 20
"""A batch may take so many times what it should, and at least so long."""
TURN_SECONDS = 0.1
STUCK_FACTOR, STUCK_NS = 4, 300_000_000
"""A batch that takes longer than this is no sign of life."""
FIRST_STUCK_NS = 2_000_000_000  # where nothing is known of its kind yet
FIRST_SECONDS = 30.0
"""Where nothing is known of its kind yet."""
DEPTH = 2
"""Batches in the worker's hands: one being scored, one to go on with at once."""
AHEAD_NS = 5_000_000
"""The second is chosen so long before the first should end, when most is known of who is urgent."""

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
        """There is a worker, it was heard a moment ago, and it answers."""
        if self._worker is None or self._worker.silent_beats > 2:
            return False
        oldest = next(iter(self._in_hand.values()), None)
        if oldest is None:
            return True
        due_ns = self.batch_ns(oldest.batch.kind, len(oldest.batch.frames))
        began_ns = max(oldest.sent_ns, self._answered_ns)
        patience_ns = STUCK_FACTOR * due_ns + STUCK_NS if due_ns else FIRST_STUCK_NS
        return time.monotonic_ns() - began_ns <= patience_ns

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
        for frame in held:  # said before anything is copied
            self._judge.uninspected(frame.exposure, Reason.WORKER_RESTART)
        try:
            self._second_tries.remember(held)
        except MemoryError:
            log.exception("no second try")  # what the worker died of may be our lack as well
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
        while self._worker is not None and self._takes_more(now_ns):
            batch = self._queue.take(
                now_ns,
                idle=not self._in_hand,
                free_ns=self._free_ns(now_ns),
                takes_ns=self.batch_ns,
            )
            if batch is None:
                break
            self._send(self._worker, batch, now_ns)
        # Only where nobody waits, and where another worker's death would cost no time.
        if self._worker is not None and self.idle and self._standby.ready:
            self._try_again(self._worker, now_ns)
        self._wake_when_due(now_ns)

    def _takes_more(self, now_ns: int) -> bool:
        """It has nothing, or is so near the end of its only batch that the next should be there."""
        if self._trial is not None or len(self._in_hand) >= DEPTH:
            return False
        return self._free_ns(now_ns) - now_ns <= AHEAD_NS

    def _try_again(self, worker: WorkerHandle, now_ns: int) -> None:
        frame = self._second_tries.next()
        if frame is None:
            return
        if self._send(worker, Batch(self._kind_of(frame), (frame,)), now_ns):
            self._trial = self._batches
        else:  # it is dying, of something else
            self._take_back(self._batches)
            self._second_tries.untried()
            self._release(frame)

    def finish_ns(self, frame: Frame, now_ns: int) -> float:
        """When a new frame would be judged: behind what the worker holds, and behind the waiting
        frames whose deadlines come before its own."""
        before = self._queue.ahead_of(frame.exposure.deadline_ns)
        kind = self._kind_of(frame)
        before[kind] = before.get(kind, 0) + 1
        return self._free_ns(now_ns) + sum(self._takes_ns(k, n) for k, n in before.items())

    def batch_ns(self, kind: Kind, frames: int) -> float:
        """What the worker takes for a batch, as measured lately; 0 where it never did."""
        return self._times.batch_ns(kind, frames)

    def _takes_ns(self, kind: Kind, frames: int) -> float:
        full, rest = divmod(frames, self._queue.most)
        return full * self.batch_ns(kind, self._queue.most) + self.batch_ns(kind, rest)

    def _free_ns(self, now_ns: int) -> float:
        """When the worker will be done with what it holds."""
        free_ns = float(now_ns)
        for place, hand in enumerate(self._in_hand.values()):
            takes_ns = self.batch_ns(hand.batch.kind, len(hand.batch.frames))
            if place == 0:  # it is at this one already
                takes_ns = max(0.0, takes_ns - (now_ns - max(hand.sent_ns, self._answered_ns)))
            free_ns += takes_ns
        return free_ns

    def _send(self, worker: WorkerHandle, batch: Batch, now_ns: int) -> bool:
        """Whether the worker took it; it is in hand either way, until the death is known."""
        self._batches += 1
        loop = asyncio.get_running_loop()
        due_s = self.batch_ns(batch.kind, len(batch.frames)) / 1e9
        patience_s = max(HANG_SECONDS, HANG_FACTOR * due_s) if due_s else FIRST_SECONDS
        overdue = loop.call_later(patience_s, self._may_hang, worker, self._batches)
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
            return False
        return True

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
                try:
                    self._judge.answered(frame, result)
                except Exception:  # its timer says `late`; the other frames are not to blame
                    log.exception("answer not taken", frame=str(frame.exposure.id))
            self.pump()  # the worker goes on while pictures of these are copied
            for frame in hand.batch.frames:
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

    def _may_hang(self, worker: WorkerHandle, batch: int) -> None:
        """It says that it is alive, and answers nothing: the device may hang. Where it was this
        process that stood still, the answer is waiting: so look again after a turn of the loop."""
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(TURN_SECONDS, self._hangs, worker, batch)
        self._in_hand[batch] = replace(self._in_hand[batch], overdue=overdue)

    def _hangs(self, worker: WorkerHandle, batch: int) -> None:
        log.error("worker does not answer", pid=worker.pid, batch=batch)
        worker.kill()

    def _wake_when_due(self, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._worker is None or self._trial is not None or len(self._in_hand) >= DEPTH:
            return
        due_ns = self._queue.next_due_ns()
        if due_ns is not None:
            # A batch that is due goes when the worker takes more, and not before.
            at_ns = max(float(due_ns), self._free_ns(now_ns) - AHEAD_NS)
            self._timer = asyncio.get_running_loop().call_at(at_ns / 1e9, self.pump)
