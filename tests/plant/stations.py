"""ADMIT and SCORE on a bench: with workers that answer and die when they are told to."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable

from adapters.ports import Exposure, Frame, Pixels, Reason, Verdict
from daemon.errors import WorkerError
from daemon.recipes import Recipes, Switched
from daemon.stations.admit import Admit
from daemon.stations.batch import BatchQueue
from daemon.stations.judge import Judge
from daemon.stations.score import Score
from daemon.stations.second_try import SecondTries
from daemon.worker.protocol import FromWorker, Refused, Result, Scored
from daemon.worker.protocol import Score as Request
from daemon.worker.ring import Ring


class ScriptedWorker:
    pid, device, silent_beats = 0, "script", 0

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.asked: list[Request] = []
        """What is not answered yet."""
        self.broken = False
        self.gone = asyncio.Event()
        self.receive: Callable[[FromWorker], None] = lambda _: None

    def send(self, message: Request) -> None:
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        self.sent.append(message)
        self.asked.append(message)

    def answer(self, request: Request, result: Result) -> None:
        self.asked.remove(request)
        self.receive(Scored(request.batch, (result,) * len(request.frames)))

    def answer_all(self, result: Result) -> None:
        """What is in its hands, and what it is then given."""
        while self.asked:
            self.answer(self.asked[0], result)

    def refuse(self, request: Request) -> None:
        self.receive(Refused(request.batch, "is smaller than a patch"))

    def kill(self) -> None:
        self.gone.set()

    async def end(self) -> None:
        self.gone.set()


class Cameras:
    """Who is told of cameras; nobody asks here."""

    def camera(self, *said: object) -> None: ...


class Bench:
    """The two stations with what surrounds them."""

    def __init__(self, ring: Ring, most: int, recipes: tuple[str, ...] = ("default",)) -> None:
        self.verdicts: list[Verdict] = []
        self.late: list[Exposure] = []
        self.released: Counter[int] = Counter()
        self.workers: list[ScriptedWorker] = []
        self.aside: list[tuple[Frame, Pixels]] = []
        self.switched: list[Switched] = []
        self.spare_slots: list[int] = []
        self.failures: list[Exception] = []
        """What the next starts of a worker end in."""
        self.judge = Judge(
            lambda verdict, _: self.verdicts.append(verdict),
            lambda exposure, _: self.late.append(exposure),
            lambda *_: None,
        )
        self.queue = BatchQueue(most, self.kind_of, math.inf)
        tries = SecondTries(ring, self.lend, lambda *said: self.aside.append(said))
        self.score = Score(
            ring, self.queue, self.judge, self.kind_of, self.release,
            self.start, tries,  # type: ignore[arg-type]
        )  # fmt: skip
        first = dict.fromkeys(("left", "right"), recipes[0])
        self.recipes = Recipes(recipes, first, self.switched.append)
        self.admit = Admit(
            self.judge, self.queue, self.score, Cameras(), self.recipes, self.release,  # type: ignore[arg-type]
        )  # fmt: skip

    def kind_of(self, frame: Frame) -> tuple[str, object]:
        return frame.recipe, frame.format

    def lend(self, frame: Frame) -> int | None:
        return self.spare_slots.pop() if self.spare_slots else None

    def release(self, frame: Frame) -> None:
        self.released[frame.slot] += 1

    async def start(self) -> ScriptedWorker:
        if self.failures:
            raise self.failures.pop()
        self.workers.append(ScriptedWorker())
        return self.workers[-1]

    async def run(self, *, standby: bool = True) -> "asyncio.Task[None]":
        """With a worker that stands by, or one that does not come up."""
        await self.score.start()
        if not standby:
            self.failures = [WorkerError("did not come up")] * 10_000
        task = asyncio.create_task(self.score.run())
        async with asyncio.timeout(5):
            while self.score._standby.ready is not standby or not self.workers:  # noqa: ASYNC110
                await asyncio.sleep(0)
        return task

    def reasons(self) -> list[Reason | None]:
        return [verdict.reason for verdict in self.verdicts]

    def sequences(self) -> list[int]:
        return [verdict.exposure.id.sequence for verdict in self.verdicts]
