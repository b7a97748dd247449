"""ADMIT and SCORE with a scripted worker: what is scored, refused, lost, and which slots return."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from adapters.ports import Exposure, Frame, Reason, Verdict
from daemon.deadlines import ServiceTimes
from daemon.errors import WorkerError
from daemon.stations.admit import Admit
from daemon.stations.batch import BatchQueue
from daemon.stations.judge import Judge
from daemon.stations.score import DEPTH, Score
from daemon.supervise import Backoff
from daemon.worker.protocol import FromWorker, Refused, Result, Scored
from daemon.worker.protocol import Score as Request
from daemon.worker.ring import Ring

MakeFrame = Callable[..., Frame]
MakeResult = Callable[..., Result]
Until = Callable[..., object]
ROOM = 64 * 64 * 3


class ScriptedWorker:
    """Answers and dies when it is told to."""

    pid, device = 0, "script"

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.broken = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive: Callable[[FromWorker], None] = lambda _: None
        self.waited_for = False

    def send(self, message: Request) -> None:
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        self.sent.append(message)

    async def serve(self, receive: Callable[[FromWorker], None]) -> None:
        self._receive = receive
        try:
            await self._end
        finally:
            self.waited_for = True

    def answer(self, request: Request, result: Result) -> None:
        self._receive(Scored(request.batch, (result,) * len(request.frames)))

    def refuse(self, request: Request) -> None:
        self._receive(Refused(request.batch, "is smaller than a patch"))

    def die(self) -> None:
        self._end.set_result(None)


class Cameras:
    """Who is told of cameras; nobody asks here."""

    def camera(self, *said: object) -> None: ...


class Bench:
    """The two stations with what surrounds them."""

    def __init__(self, ring: Ring, most: int) -> None:
        self.verdicts: list[Verdict] = []
        self.late: list[Exposure] = []
        self.released: Counter[int] = Counter()
        self.workers: list[ScriptedWorker] = []
        self.failures = 0
        self.judge = Judge(
            lambda verdict, _: self.verdicts.append(verdict),
            lambda exposure, _: self.late.append(exposure),
            lambda *_: None,
        )
        queue = BatchQueue(most, self.kind_of)
        self.score = Score(ring, queue, self.judge, self.kind_of, self.release, self.start)  # type: ignore[arg-type]
        self.admit = Admit(self.judge, queue, self.score, Cameras(), self.release)  # type: ignore[arg-type]
        self.queue = queue

    def kind_of(self, frame: Frame) -> tuple[str, object]:
        return "default", frame.format

    def release(self, frame: Frame) -> None:
        self.released[frame.slot] += 1

    async def start(self) -> ScriptedWorker:
        if self.failures:
            self.failures -= 1
            raise WorkerError("did not come up")
        self.workers.append(ScriptedWorker())
        return self.workers[-1]

    async def run(self) -> asyncio.Task[None]:
        await self.score.start()
        task = asyncio.create_task(self.score.run())
        await asyncio.sleep(0)
        return task

    def reasons(self) -> list[Reason | None]:
        return [verdict.reason for verdict in self.verdicts]

    def sequences(self) -> list[int]:
        return [verdict.exposure.id.sequence for verdict in self.verdicts]


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([ROOM] * 40)
    yield ring
    ring.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.stations.score.Backoff", lambda: Backoff(0.001, 0.002))


async def test_a_frame_is_scored_judged_and_its_slot_released_once(
    ring: Ring, frame: MakeFrame, result: MakeResult
) -> None:
    bench = Bench(ring, 4)
    task = await bench.run()
    bench.admit.frame(frame(1, slot=3))
    (request,) = bench.workers[0].sent
    assert [(f.pixels, f.heat) for f in request.frames] == [
        (ring.slots[3].pixels, ring.slots[3].heat)
    ]
    assert not bench.released
    bench.workers[0].answer(request, result())
    assert bench.reasons() == [None]
    assert bench.released == {3: 1}
    task.cancel()


async def test_only_so_many_batches_are_in_the_workers_hands(
    ring: Ring, frame: MakeFrame, result: MakeResult
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    for k in range(9):
        bench.admit.frame(frame(k, slot=k))
    worker = bench.workers[0]
    assert [len(r.frames) for r in worker.sent] == [1, 2]
    answered = 0
    while answered < len(worker.sent):
        assert len(worker.sent) - answered <= DEPTH
        worker.answer(worker.sent[answered], result())
        answered += 1
    assert bench.sequences() == list(range(9))
    assert bench.released == dict.fromkeys(range(9), 1)
    task.cancel()


async def test_what_waited_its_share_goes_without_another_frame_coming(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 8)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=0))
    bench.admit.frame(frame(1, slot=1, within_s=0.4))
    worker = bench.workers[0]
    assert len(worker.sent) == 1
    before = time.monotonic()
    await until(lambda: len(worker.sent) == 2)
    assert 0.05 < time.monotonic() - before < 0.35
    bench.judge.decide_all(Reason.SHUTDOWN)
    task.cancel()


async def test_what_cannot_be_in_time_is_overload_at_once(
    ring: Ring, frame: MakeFrame, result: MakeResult
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.score._times.observe(("default", frame().format), 1, 100_000_000)
    for k in range(10):
        bench.admit.frame(frame(k, slot=k, within_s=0.45))
    # 100 ms each: the fifth would need 500 ms.
    bench.judge.decide_all(Reason.SHUTDOWN)
    assert bench.reasons() == [Reason.SHUTDOWN] * 4 + [Reason.OVERLOAD] * 6
    assert bench.released == dict.fromkeys(range(4, 10), 1)
    task.cancel()


async def test_one_slow_answer_does_not_turn_every_later_frame_away(
    ring: Ring, frame: MakeFrame, result: MakeResult
) -> None:
    """A first batch on a cold machine is slow; an idle worker must be tried again, or never is."""
    bench = Bench(ring, 4)
    task = await bench.run()
    bench.score._times.observe(("default", frame().format), 1, 5_000_000_000)
    for k in range(50):
        bench.admit.frame(frame(k, slot=0, within_s=0.2))
        for request in bench.workers[0].sent:
            bench.workers[0].answer(request, result())
        bench.workers[0].sent.clear()
    assert bench.reasons().count(Reason.OVERLOAD) < 50
    task.cancel()


def test_the_estimate_follows_what_service_takes() -> None:
    times, kind = ServiceTimes(), ("default", None)
    assert times.per_frame_ns(kind) == 0  # type: ignore[arg-type]
    times.observe(kind, 4, 4000)  # type: ignore[arg-type]
    assert times.per_frame_ns(kind) == 1000  # type: ignore[arg-type]
    for _ in range(40):
        times.observe(kind, 2, 400)  # type: ignore[arg-type]
    assert times.per_frame_ns(kind) == pytest.approx(200, rel=0.01)  # type: ignore[arg-type]


async def test_a_dead_worker_costs_exactly_the_frames_in_hand_and_queued(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    for k in range(12):
        bench.admit.frame(frame(k, slot=k))
    first = bench.workers[0]
    first.answer(first.sent[0], result())
    first.answer(first.sent[1], result())
    scored = bench.sequences()
    first.die()
    await until(lambda: len(bench.verdicts) == 12)
    assert first.waited_for
    assert bench.reasons() == [None] * len(scored) + [Reason.WORKER_RESTART] * (12 - len(scored))
    assert bench.sequences() == list(range(12))
    assert bench.released == dict.fromkeys(range(12), 1)
    await until(lambda: len(bench.workers) == 2 and bench.score.ready)
    assert bench.score.restarts == 1
    bench.admit.frame(frame(12, slot=12))
    bench.workers[1].answer(bench.workers[1].sent[0], result())
    assert bench.reasons()[-1] is None
    task.cancel()


async def test_while_there_is_no_worker_every_frame_is_worker_restart_at_once(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.failures = 10**6
    bench.workers[0].die()
    await until(lambda: not bench.score.ready)
    bench.admit.frame(frame(0, slot=5))
    assert bench.reasons() == [Reason.WORKER_RESTART]
    assert bench.released == {5: 1}
    bench.failures = 0
    await until(lambda: bench.score.ready)
    task.cancel()


@pytest.mark.parametrize("fault", [OSError(12, "Cannot allocate memory"), WorkerError("no")])
async def test_a_worker_that_cannot_even_be_started_is_tried_again(
    ring: Ring, until: Until, fault: Exception
) -> None:
    """fork() without memory is an OSError; the line must outlive it."""
    bench = Bench(ring, 2)
    task = await bench.run()
    start, faults = bench.start, [fault, fault]

    async def failing() -> ScriptedWorker:
        if faults:
            raise faults.pop()
        return await start()

    bench.score._start_worker = failing  # type: ignore[assignment]
    bench.workers[0].die()
    await until(lambda: len(bench.workers) == 2 or task.done())
    assert not task.done(), task.exception()
    task.cancel()


async def test_frames_sent_to_a_worker_that_is_dying_are_answered_for_once(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.workers[0].broken = True
    for k in range(5):
        bench.admit.frame(frame(k, slot=k))
    assert not bench.verdicts
    bench.workers[0].die()
    await until(lambda: len(bench.verdicts) == 5)
    assert set(bench.reasons()) == {Reason.WORKER_RESTART}
    assert bench.released == dict.fromkeys(range(5), 1)
    task.cancel()


async def test_a_refused_batch_is_no_model_and_frees_its_slots(
    ring: Ring, frame: MakeFrame, result: MakeResult
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    for k in range(3):
        bench.admit.frame(frame(k, slot=k))
    worker = bench.workers[0]
    worker.refuse(worker.sent[0])
    assert bench.reasons() == [Reason.NO_MODEL]
    worker.answer(worker.sent[1], result())
    assert bench.reasons() == [Reason.NO_MODEL, None, None]
    assert bench.released == {0: 1, 1: 1, 2: 1}
    task.cancel()


async def test_a_frame_that_expires_in_the_queue_is_late_once_and_is_not_scored(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    for k in range(DEPTH):
        bench.admit.frame(frame(k, slot=k, camera="right"))
    bench.admit.frame(frame(9, slot=9, within_s=0.05))
    await until(lambda: bool(bench.verdicts))
    assert bench.reasons() == [Reason.LATE]
    worker = bench.workers[0]
    worker.answer(worker.sent[0], result())
    assert bench.released == {0: 1, 9: 1}
    assert len(worker.sent) == DEPTH
    bench.judge.decide_all(Reason.SHUTDOWN)
    task.cancel()


async def test_a_slot_in_the_workers_hands_is_not_released_by_a_late_verdict(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=4, within_s=0.03))
    await until(lambda: bool(bench.verdicts))
    assert bench.reasons() == [Reason.LATE]
    assert not bench.released
    from model.judgement import Judgement

    bench.workers[0].answer(bench.workers[0].sent[0], result(Judgement.DEFECT, 0.9))
    assert bench.released == {4: 1}
    assert len(bench.late) == 1
    assert len(bench.verdicts) == 1
    task.cancel()


async def test_a_cancelled_station_waits_for_its_worker_and_frees_every_slot(
    ring: Ring, frame: MakeFrame
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    for k in range(7):
        bench.admit.frame(frame(k, slot=k))
    bench.judge.decide_all(Reason.SHUTDOWN)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bench.workers[0].waited_for
    assert set(bench.reasons()) == {Reason.SHUTDOWN}
    assert len(bench.verdicts) == 7
    assert bench.released == dict.fromkeys(range(7), 1)


async def test_an_exposure_without_a_picture_has_its_verdict_and_no_slot(
    ring: Ring, exposure: Callable[..., Exposure]
) -> None:
    bench = Bench(ring, 2)
    bench.admit.unseen(exposure(3), Reason.CORRUPT)
    assert bench.reasons() == [Reason.CORRUPT]
    assert not bench.released
