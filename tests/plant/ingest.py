"""One camera's ingest with scripts for its connections, and a desk that writes down what comes."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from adapters.ports import Exposure, Frame, FrameFormat, FrameId, Intake, Reason, Shot
from daemon.records.ledger import Account, Ledger
from daemon.stations.ingest import Camera, Ingest
from daemon.worker.ring import Quota, Ring

FORMAT = FrameFormat(64, 64, 1, "uint8")
LARGE = FrameFormat(128, 100, 3, "uint8")
SLOTS = 4
Script = Callable[[Intake, threading.Event], None]


class Scripted:
    """A camera that does what its script says; `stopped` is set by `stop`."""

    def __init__(self, script: Script, *, counts_on: bool = False) -> None:
        self.script, self.stopped, self.counts_on = script, threading.Event(), counts_on

    def stream(self, intake: Intake) -> None:
        self.script(intake, self.stopped)

    def stop(self) -> None:
        self.stopped.set()


class Desk:
    """Writes down what comes, and what the ledger said at that moment."""

    def __init__(self, account: Account, quota: Quota) -> None:
        self.account, self.quota = account, quota
        self.told: list[tuple[object, ...]] = []
        self.frames: list[Frame] = []
        self.thread: int | None = None

    def frame(self, frame: Frame) -> None:
        self.thread = threading.get_ident()
        assert self.account.counts().received > len(self.frames)
        self.frames.append(frame)
        self.told.append(("frame", frame.exposure.id.epoch, frame.exposure.id.sequence))
        self.quota.release(frame.slot)

    def unseen(self, exposure: Exposure, reason: Reason) -> None:
        self.told.append((reason, exposure.id.epoch, exposure.id.sequence))

    def missed(self, first: FrameId, last: FrameId, reason: Reason) -> None:
        self.account.missed(last, last.sequence - first.sequence + 1, reason)
        self.told.append(("missed", reason, first.sequence, last.sequence))

    def camera_up(self, camera: str, epoch: int) -> None:
        self.told.append(("up", epoch))

    def camera_down(self, camera: str, epoch: int, problem: str) -> None:
        self.told.append(("down", epoch, problem))

    def kinds(self) -> list[object]:
        return [said[0] for said in self.told]


class Line:
    """One camera's ingest, with the scripts of its connections one after the other."""

    def __init__(self, folder: Path) -> None:
        self.ring = Ring.create([FORMAT.nbytes] * SLOTS)
        self.quota = Quota(range(SLOTS))
        self.ledger = Ledger(folder / "ledger")
        self.account = self.ledger.account("left")
        self.desk = Desk(self.account, self.quota)
        self.made: list[Scripted] = []
        self.scripts: list[Script] = []
        self.counts_on = False
        camera = Camera("line", "left", 50_000_000, self.make)
        self.ingest = Ingest(camera, self.ring, self.quota, self.ledger, self.account, self.desk)

    def make(self) -> Scripted:
        self.made.append(Scripted(self.scripts.pop(0), counts_on=self.counts_on))
        return self.made[-1]

    async def show(self, *scripts: Script) -> None:
        """Until the camera has shown all."""
        self.scripts += scripts
        self.ingest.start()
        async with asyncio.timeout(10):
            await self.ingest.done.wait()


def show(intake: Intake, *sequences: int, level: int = 0) -> None:
    for sequence in sequences:
        lease = intake.lend(FORMAT, wait=True)
        assert lease is not None
        lease.pixels[:] = sequence % 256
        intake.arrived(Shot(sequence, 1000 + sequence, part=sequence + 1), lease)


def shows(*sequences: int) -> Script:
    return lambda intake, _: show(intake, *sequences)


def breaks(*sequences: int, error: Exception) -> Script:
    def script(intake: Intake, _: threading.Event) -> None:
        show(intake, *sequences)
        raise error

    return script
