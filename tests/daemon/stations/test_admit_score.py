"""ADMIT and SCORE with a scripted worker: what is scored, refused, lost, and which slots return."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from plant.stations import Bench

from adapters.ports import Exposure, Frame, Reason
from daemon.deadlines import ServiceTimes
from daemon.stations.score import DEPTH
from daemon.supervise import Backoff
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring
from model.judgement import Judgement

MakeFrame = Callable[..., Frame]
MakeResult = Callable[..., Result]
Until = Callable[..., object]
ROOM = 64 * 64 * 3


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([ROOM] * 40)
    yield ring
    ring.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.worker.standby.Backoff", lambda: Backoff(0.001, 0.002))


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
    assert times.batch_ns(kind, 4) == 0  # type: ignore[arg-type]
    times.observe(kind, 4, 4000)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 4) == 4000  # type: ignore[arg-type]
    for _ in range(40):
        times.observe(kind, 4, 400)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 4) == 400  # type: ignore[arg-type]


def test_one_slow_batch_alone_says_nothing_of_the_next() -> None:
    times, kind = ServiceTimes(), ("default", None)
    for took in [100] * 14 + [9000]:
        times.observe(kind, 1, took)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 1) == 100  # type: ignore[arg-type]


def test_a_batch_that_was_never_seen_is_expected_by_its_price_and_its_frames() -> None:
    times, kind = ServiceTimes(), ("default", None)
    times.observe(kind, 2, 21_000)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 8) == 84_000  # type: ignore[arg-type]
    assert times.batch_ns(kind, 1) == 21_000  # type: ignore[arg-type]
    times.observe(kind, 6, 23_000)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 8) == 24_000  # type: ignore[arg-type]
    assert times.batch_ns(kind, 4) == 22_000  # type: ignore[arg-type]
    assert times.batch_ns(kind, 0) == 0  # type: ignore[arg-type]


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
    assert bench.workers[0].gone.is_set()
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


async def test_a_frame_that_comes_after_its_deadline_is_late_and_not_scored(
    ring: Ring, frame: MakeFrame
) -> None:
    """As after a freeze of the daemon: the load is not to blame."""
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=5, within_s=-0.001))
    assert bench.reasons() == [Reason.LATE]
    assert bench.released == {5: 1}
    assert bench.workers[0].sent == []
    task.cancel()


@pytest.mark.parametrize("judgement", [Judgement.INCOMPLETE, Judgement.IMAGE_QUALITY])
async def test_a_picture_that_cannot_be_judged_is_uninspected_for_that_reason(
    ring: Ring, frame: MakeFrame, result: MakeResult, judgement: Judgement
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=5))
    bench.workers[0].answer_all(result(judgement))
    assert bench.reasons() == [Reason(judgement.value)]
    task.cancel()


async def test_a_camera_with_a_short_deadline_is_not_starved_by_patient_ones(
    ring: Ring, frame: MakeFrame
) -> None:
    """Its frames go before theirs: they are no reason to turn it away."""
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.score._times.observe(("default", frame().format), 1, 20_000_000)
    for k in range(20):
        bench.admit.frame(frame(k, slot=k, camera="right", within_s=2.0))
    bench.admit.frame(frame(0, slot=30, camera="left", within_s=0.1))
    assert not bench.verdicts
    batch = bench.queue.take(0, idle=True, free_ns=0.0, takes_ns=lambda *_: 0.0)
    assert batch is not None
    assert [one.exposure.id.camera for one in batch.frames] == ["left"]
    bench.judge.decide_all(Reason.SHUTDOWN)
    task.cancel()


async def test_the_price_of_a_batch_is_not_charged_to_every_frame(
    ring: Ring, frame: MakeFrame
) -> None:
    """20 ms a batch and half a ms a frame, as on a GPU: 30 frames are 4 batches, not 30."""
    bench = Bench(ring, 8)
    task = await bench.run()
    kind = ("default", frame().format)
    bench.score._times.observe(kind, 1, 20_500_000)
    bench.score._times.observe(kind, 8, 24_000_000)
    for k in range(30):
        bench.admit.frame(frame(k, slot=k, within_s=0.15))
    assert not bench.verdicts
    bench.judge.decide_all(Reason.SHUTDOWN)
    task.cancel()


def test_a_batch_size_that_was_slow_once_and_not_seen_since_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would keep itself from ever being tried, and measured, again."""
    now_s = [100.0]
    monkeypatch.setattr("daemon.deadlines.time.monotonic_ns", lambda: int(now_s[0] * 1e9))
    times, kind = ServiceTimes(), ("default", None)
    times.observe(kind, 8, 500_000_000)  # type: ignore[arg-type]
    times.observe(kind, 1, 20_000_000)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 8) == 500_000_000  # type: ignore[arg-type]
    now_s[0] += 11
    times.observe(kind, 1, 20_000_000)  # type: ignore[arg-type]
    assert times.batch_ns(kind, 8) == 160_000_000  # type: ignore[arg-type]


async def test_an_answer_that_cannot_be_taken_costs_no_other_frame_and_no_slot(
    ring: Ring, frame: MakeFrame, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(ring, 8)
    task = await bench.run()
    for k in range(4):
        bench.admit.frame(frame(k, slot=k))
    bench.workers[0].answer(bench.workers[0].sent[0], result())
    answered = bench.judge.answered

    def fails_once(one: Frame, said: Result) -> None:
        if one.slot == 1:
            raise MemoryError
        answered(one, said)

    monkeypatch.setattr(bench.judge, "answered", fails_once)
    bench.workers[0].answer_all(result())
    assert bench.released == dict.fromkeys(range(4), 1)
    bench.judge.decide_all(Reason.LATE)
    assert bench.reasons() == [None, Reason.LATE, None, None]
    task.cancel()
