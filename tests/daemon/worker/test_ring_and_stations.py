"""The ring between its writer, its readers and the stations, against a plain model.

A slot is never lent to a camera while a living worker reads it, comes back exactly once, and every
frame has exactly one verdict, in its camera's order, whoever dies and whatever is refused.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from plant.stations import Bench, ScriptedWorker

from adapters.ports import Exposure, Frame, FrameFormat, FrameId, Reason, Verdict
from daemon.errors import WorkerError
from daemon.supervise import Backoff
from daemon.worker.protocol import Result
from daemon.worker.protocol import Score as Request
from daemon.worker.ring import Quota, Ring
from model.judgement import Judgement

FORMAT = FrameFormat(64, 64, 1, "uint8")
CAMERAS = ("left", "right")
SLOTS = 4  # of each camera
SOON_S = 0.006
WITHIN_S = st.sampled_from([60.0, 60.0, SOON_S, -1.0])
"""Far, soon enough to run out in the queue, and past."""


class Reader(ScriptedWorker):
    """A worker that remembers what stood in the slots it was given."""

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self.ring, self.given = ring, dict[int, list[int]]()

    def send(self, message: Request) -> None:
        super().send(message)
        self.given[message.batch] = self.shown(message)

    def shown(self, request: Request) -> list[int]:
        views = [self.ring.pixels(ref.pixels, ref.format) for ref in request.frames]
        assert all((view == view[0, 0, 0]).all() for view in views)
        return [int(view[0, 0, 0]) for view in views]

    @property
    def reads(self) -> list[int]:
        """Where, in bytes of the ring; nowhere once it is gone."""
        if self.gone.is_set():
            return []
        return [ref.pixels for request in self.asked for ref in request.frames]


class Plant(Bench):
    """The stations with a quota for each camera."""

    def __init__(self, ring: Ring) -> None:
        self.ring, self.out = ring, set[int]()
        self.quotas = {
            name: Quota(range(k * SLOTS, (k + 1) * SLOTS)) for k, name in enumerate(CAMERAS)
        }
        super().__init__(ring, most=2)

    async def start(self) -> ScriptedWorker:
        if self.failures:
            raise self.failures.pop()
        self.workers.append(Reader(self.ring))
        return self.workers[-1]

    def reads(self) -> set[int]:
        return {place for worker in self.workers for place in worker.reads}  # type: ignore[attr-defined]

    def take(self, camera: str) -> int | None:
        slot = self.quotas[camera].take(wait=False)
        if slot is not None:
            assert slot not in self.out
            assert self.ring.slots[slot].pixels not in self.reads(), "lent while it is read"
            self.out.add(slot)
        return slot

    def lend(self, frame: Frame) -> int | None:
        return self.take(frame.exposure.id.camera)

    def release(self, frame: Frame) -> None:
        self.out.remove(frame.slot)  # KeyError: it came back twice
        assert self.ring.slots[frame.slot].pixels not in self.reads(), "released while it is read"
        self.quotas[frame.exposure.id.camera].release(frame.slot)


class RingAndStations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("daemon.worker.standby.Backoff", lambda: Backoff(0.001, 0.001))
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
        self.ring = Ring.create([FORMAT.nbytes] * SLOTS * len(CAMERAS))
        self.exposed: Counter[str] = Counter()
        self.decided: dict[FrameId, Verdict] = {}
        self.loop = asyncio.new_event_loop()
        self.plant = Plant(self.ring)
        self.task = self.run(self.plant.run())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def settle(self, seconds: float = 0.0) -> None:
        """What is due comes to pass."""
        await asyncio.sleep(seconds)
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def worker(self) -> Reader | None:
        worker: Any = self.plant.score.worker
        return worker if worker is not None and not worker.gone.is_set() else None

    def exposure(self, camera: str, within_s: float) -> Exposure:
        sequence, now_ns = self.exposed[camera], time.monotonic_ns()
        self.exposed[camera] += 1
        name = FrameId("line", camera, 1, sequence)
        return Exposure(name, now_ns, 0, now_ns + int(within_s * 1e9), 0)

    @rule(camera=st.sampled_from(CAMERAS), within_s=WITHIN_S, frames=st.integers(1, 3))
    def expose(self, camera: str, within_s: float, frames: int) -> None:
        async def work() -> None:
            for _ in range(frames):
                slot, exposure = self.plant.take(camera), self.exposure(camera, within_s)
                if slot is None:
                    self.plant.admit.unseen(exposure, Reason.OVERLOAD)
                    continue
                place = self.ring.slots[slot].pixels
                self.ring.pixels(place, FORMAT)[:] = exposure.id.sequence % 256
                self.plant.admit.frame(Frame(exposure, FORMAT, slot))
            await self.settle()

        self.run(work())

    @precondition(lambda self: self.worker is not None and self.worker.asked)
    @rule(first=st.booleans(), judgement=st.sampled_from([*Judgement, None]))
    def answer(self, first: bool, judgement: Judgement | None) -> None:
        """None: the model refuses them."""
        worker = self.worker
        assert worker is not None
        request = worker.asked[0 if first else -1]
        assert worker.shown(request) == worker.given[request.batch], "written while it was read"

        async def work() -> None:
            if judgement is None:
                worker.asked.remove(request)
                worker.refuse(request)
            else:
                worker.answer(request, Result(0.2, 0.5, judgement, ()))
            await self.settle()

        self.run(work())

    @precondition(lambda self: self.worker is not None)
    @rule()
    def a_worker_takes_nothing_any_more(self) -> None:
        assert self.worker is not None
        self.worker.broken = True

    @precondition(lambda self: self.worker is not None)
    @rule()
    def a_worker_dies(self) -> None:
        assert self.worker is not None
        self.worker.kill()
        self.run(self.settle())

    @rule()
    def the_one_that_stands_by_dies(self) -> None:
        for worker in self.plant.workers[-1:]:
            if worker is not self.worker:
                worker.kill()
        self.run(self.settle())

    @rule(fails=st.booleans())
    def workers_come_up_or_fail(self, fails: bool) -> None:
        self.plant.failures = [WorkerError("did not come up")] * 1000 if fails else []
        self.run(self.settle(0.003))

    @rule()
    def time_passes(self) -> None:
        self.run(self.settle(SOON_S + 0.002))

    @invariant()
    def every_slot_that_is_out_has_one_place(self) -> None:
        score, queue = self.plant.score, self.plant.queue
        in_hand = [f.slot for hand in score._in_hand.values() for f in hand.batch.frames]
        waiting = [one.frame.slot for one in queue._all()]
        assert sorted(in_hand + waiting) == sorted(self.plant.out)
        for camera, quota in self.plant.quotas.items():
            mine = range(CAMERAS.index(camera) * SLOTS, (CAMERAS.index(camera) + 1) * SLOTS)
            assert quota.held == len(self.plant.out & set(mine))

    @invariant()
    def verdicts_come_once_and_in_order(self) -> None:
        for camera in CAMERAS:
            said = [v.exposure.id for v in self.plant.verdicts if v.exposure.id.camera == camera]
            assert [name.sequence for name in said] == list(range(len(said)))

    @invariant()
    def the_first_decision_of_a_frame_stands(self) -> None:
        waiting = [p.verdict for p in self.plant.judge._pending.values() if p.verdict is not None]
        for verdict in (*waiting, *self.plant.verdicts):
            assert self.decided.setdefault(verdict.exposure.id, verdict) is verdict

    @invariant()
    def nothing_waits_for_a_worker_that_is_idle_or_not_there(self) -> None:
        waits = self.plant.queue.waiting()
        assert not waits or (self.plant.score.ready and self.plant.score._in_hand)

    @invariant()
    def the_line_goes_on(self) -> None:
        assert not self.task.done(), self.task

    def teardown(self) -> None:
        async def end() -> None:
            self.plant.judge.decide_all(Reason.SHUTDOWN)
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

        self.run(end())
        self.loop.close()
        self.ring.close()
        self.patch.undo()
        assert self.plant.out == set()
        assert all(worker.gone.is_set() for worker in self.plant.workers)
        said = Counter(v.exposure.id.camera for v in self.plant.verdicts)
        assert said == +self.exposed


RingAndStations.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None
)
TestRingAndStations = RingAndStations.TestCase
