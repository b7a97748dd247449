"""SCORE when a worker dies: who is `worker_restart`, who goes on, and who is tried again."""

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from plant.stations import Bench

from adapters.ports import Frame, Reason
from daemon.errors import WorkerError
from daemon.supervise import Backoff
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring
from model.judgement import Judgement

MakeFrame = Callable[..., Frame]
MakeResult = Callable[..., Result]
Until = Callable[..., object]
SPARE = 30


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([64 * 64] * 40)
    yield ring
    ring.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.worker.standby.Backoff", lambda: Backoff(0.001, 0.002))


async def test_a_death_costs_exactly_the_frames_in_hand_where_another_stands_by(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    first, second = bench.workers
    for k in range(12):
        bench.admit.frame(frame(k, slot=k))
    first.answer(first.sent[0], result())
    held = [f for request in first.sent[1:] for f in request.frames]
    assert len(held) == 4
    first.kill()
    await until(lambda: bench.score.worker is second)
    assert bench.reasons() == [None] + [Reason.WORKER_RESTART] * 4
    second.answer_all(result())
    assert bench.reasons() == [None] + [Reason.WORKER_RESTART] * 4 + [None] * 7
    assert bench.sequences() == list(range(12))
    assert bench.released == dict.fromkeys(range(12), 1)
    assert bench.score.restarts == 1
    task.cancel()


async def test_where_nobody_stands_by_all_that_waits_is_worker_restart_at_once(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run(standby=False)
    for k in range(9):
        bench.admit.frame(frame(k, slot=k))
    bench.workers[0].kill()
    await until(lambda: not bench.score.ready)
    assert bench.reasons() == [Reason.WORKER_RESTART] * 9
    bench.admit.frame(frame(9, slot=9))
    assert bench.reasons() == [Reason.WORKER_RESTART] * 10
    assert bench.released == dict.fromkeys(range(10), 1)
    bench.failures.clear()
    await until(lambda: bench.score.ready)
    task.cancel()


@pytest.mark.parametrize("fault", [OSError(12, "Cannot allocate memory"), WorkerError("no")])
async def test_a_worker_that_cannot_even_be_started_is_tried_again(
    ring: Ring, until: Until, fault: Exception
) -> None:
    """fork() without memory is an OSError; the line must outlive it."""
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.failures = [fault, fault]
    bench.workers[0].kill()
    await until(lambda: len(bench.workers) == 3 or task.done())
    assert not task.done(), task.exception()
    assert bench.score.worker is bench.workers[1]
    task.cancel()


async def test_a_worker_that_dies_while_it_stands_by_is_replaced_and_costs_nothing(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 2)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=0))
    bench.workers[1].kill()
    await until(lambda: len(bench.workers) == 3)
    assert bench.score.worker is bench.workers[0]
    assert not bench.verdicts
    bench.workers[0].kill()
    await until(lambda: bench.score.worker is bench.workers[2])
    assert bench.reasons() == [Reason.WORKER_RESTART]
    task.cancel()


async def test_frames_sent_to_a_worker_that_is_dying_are_answered_for_once(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.workers[0].broken = True
    for k in range(2):
        bench.admit.frame(frame(k, slot=k))
    assert not bench.verdicts
    bench.workers[0].kill()
    await until(lambda: len(bench.verdicts) == 2)
    assert set(bench.reasons()) == {Reason.WORKER_RESTART}
    assert bench.released == dict.fromkeys(range(2), 1)
    task.cancel()


async def test_a_worker_that_answers_nothing_for_too_long_is_killed(
    ring: Ring, frame: MakeFrame, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alive and its device hangs: the beat alone would not show it."""
    monkeypatch.setattr("daemon.stations.score.FIRST_SECONDS", 0.02)
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=0))
    await until(lambda: bench.score.worker is bench.workers[1])
    assert bench.reasons() == [Reason.WORKER_RESTART]
    task.cancel()


async def killed_with(bench: Bench, ring: Ring, frames: list[Frame], until: Until) -> None:
    """The first worker dies with these in its hands, and another stands by again."""
    for one in frames:
        ring.pixels(ring.slots[one.slot].pixels, one.format)[:] = 10 + one.slot
        bench.admit.frame(one)
    bench.workers[0].kill()
    await until(lambda: bench.score.worker is bench.workers[1])
    for one in frames:  # what comes next into these slots
        ring.pixels(ring.slots[one.slot].pixels, one.format)[:] = 0
    await until(lambda: bench.score._standby.ready)


async def test_what_a_dead_worker_held_is_tried_once_more_alone_and_a_defect_is_told_late(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    await killed_with(bench, ring, [frame(0, slot=3), frame(1, slot=4)], until)
    bench.spare_slots = [SPARE, SPARE]
    bench.score.pump()
    second = bench.workers[1]
    (trial,) = second.sent
    assert [f.pixels for f in trial.frames] == [ring.slots[SPARE].pixels]
    assert (ring.pixels(ring.slots[SPARE].pixels, frame().format) == 13).all()
    bench.admit.frame(frame(2, slot=5))
    assert len(second.sent) == 1, "a suspect is alone in the worker's hands"
    second.answer(trial, result(Judgement.DEFECT, 0.9))
    assert [e.id.sequence for e in bench.late] == [0]
    assert len(second.sent) == 2, "the line goes before other suspects"
    second.answer_all(result())
    assert bench.reasons() == [Reason.WORKER_RESTART] * 2 + [None]
    assert bench.sequences() == [0, 1, 2]
    assert not bench.aside
    assert bench.released[SPARE] == 2
    assert len(second.sent) == 3
    bench.score.pump()
    assert len(second.sent) == 3, "once more, and never again"
    task.cancel()


async def test_a_frame_that_kills_two_workers_is_set_aside_and_no_third_one_sees_it(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    await killed_with(bench, ring, [frame(0, slot=3)], until)
    bench.spare_slots = [SPARE] * 5
    bench.score.pump()
    bench.workers[1].kill()
    await until(lambda: bench.score.worker is bench.workers[2])
    ((aside, pixels),) = bench.aside
    assert aside.exposure.id.sequence == 0
    assert np.array_equal(pixels, np.full((64, 64, 1), 13, np.uint8))
    await until(lambda: bench.score._standby.ready)
    bench.score.pump()
    assert bench.workers[2].sent == []
    assert bench.reasons() == [Reason.WORKER_RESTART]
    assert bench.released == {3: 1, SPARE: 1}
    task.cancel()


async def test_nothing_is_tried_again_while_nobody_stands_by_or_no_slot_is_free(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=3))
    bench.failures = [WorkerError("did not come up")] * 10_000
    bench.workers[0].kill()
    await until(lambda: bench.score.worker is bench.workers[1])
    bench.spare_slots = [SPARE]
    bench.score.pump()
    assert bench.workers[1].sent == []
    bench.failures.clear()
    await until(lambda: bench.score._standby.ready)
    bench.spare_slots = []
    bench.score.pump()
    assert bench.workers[1].sent == []
    bench.spare_slots = [SPARE]
    bench.score.pump()
    assert len(bench.workers[1].sent) == 1
    task.cancel()


async def test_a_cancelled_station_leaves_no_worker_behind(ring: Ring) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(worker.gone.is_set() for worker in bench.workers)


async def test_a_daemon_that_stood_still_itself_kills_no_worker_for_it(
    ring: Ring, frame: MakeFrame, result: MakeResult, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is there already when the timer comes, and only has to be read."""
    monkeypatch.setattr("daemon.stations.score.FIRST_SECONDS", 0.02)
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.admit.frame(frame(0, slot=0))
    asyncio.get_running_loop().call_later(0.05, bench.workers[0].answer_all, result())
    await until(lambda: bool(bench.verdicts))
    await asyncio.sleep(0.2)
    assert bench.reasons() == [None]
    assert not bench.workers[0].gone.is_set()
    task.cancel()


async def test_a_worker_that_dies_before_a_second_try_begins_makes_nobody_guilty(
    ring: Ring, frame: MakeFrame, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    await killed_with(bench, ring, [frame(0, slot=3)], until)
    bench.spare_slots = [SPARE, SPARE]
    bench.workers[1].broken = True
    bench.score.pump()
    bench.workers[1].kill()
    await until(lambda: bench.score.worker is bench.workers[2])
    await until(lambda: bench.score._standby.ready)
    assert not bench.aside
    bench.score.pump()
    assert len(bench.workers[2].sent) == 1
    assert bench.released[SPARE] == 1
    task.cancel()


async def test_a_standby_that_fails_as_nobody_foresaw_is_tried_again(
    ring: Ring, until: Until
) -> None:
    bench = Bench(ring, 1)
    task = await bench.run()
    bench.failures = [RuntimeError("can't start new thread"), MemoryError()]
    bench.workers[0].kill()
    await until(lambda: len(bench.workers) == 3)
    assert not task.done()
    task.cancel()


async def test_a_batch_that_takes_far_too_long_is_no_sign_of_life(
    ring: Ring, frame: MakeFrame, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.stations.score.STUCK_NS", 10_000_000)
    bench = Bench(ring, 1)
    task = await bench.run()
    assert bench.score.alive
    bench.score._times.observe(("default", frame().format), 1, 1_000_000)
    bench.admit.frame(frame(0, slot=0))
    assert bench.score.alive
    await until(lambda: not bench.score.alive)
    task.cancel()
