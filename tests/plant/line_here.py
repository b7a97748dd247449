"""A line in this process, with a real worker, and a camera over ZeroMQ that the test itself is."""

import asyncio
import time
from collections.abc import Set
from pathlib import Path

import numpy as np
import zmq
from plant.judge import Judged, judge
from plant.mqtt import until

from adapters.ports import Outcome, Reason, Verdict
from adapters.sources.frame_message import encode
from daemon import config, wiring
from daemon.service import Service, serve

FPS = 25
CONFIG = """
state_dir = "state"
[worker]
device = "cpu"
[cameras.left]
url = "zmq+{address}"
deadline_ms = {deadline_ms}
max_frame_bytes = 1048576
[log]
level = "error"
"""


class LineHere:
    """The service, who is told its verdicts, and the camera. An asynchronous context manager."""

    def __init__(self, folder: Path, more: str, deadline_ms: int = 3000) -> None:
        """`more`: recipes, and what else a test needs of the configuration."""
        self.folder, self.address = folder, f"ipc://{folder}/left.sock"
        text = CONFIG.format(address=self.address, deadline_ms=deadline_ms) + more
        (folder / "line.toml").write_text(text)
        self.service: Service = wiring.build(config.load(folder / "line.toml"), folder, (self,))
        self.verdicts: dict[int, Verdict] = {}
        self._told: list[tuple[int, Verdict]] = []
        self.sent = 0
        self._dice = np.random.default_rng(3)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.bind(self.address)

    def tell(self, verdict: Verdict) -> None:
        assert verdict.exposure.id.sequence not in self.verdicts
        self.verdicts[verdict.exposure.id.sequence] = verdict
        self._told.append((time.monotonic_ns(), verdict))

    def picture(self) -> np.ndarray:
        return self._dice.integers(30, 220, (128, 128, 1), np.uint8)

    def show(self, pixels: np.ndarray, part: int | None = None) -> int:
        """The frame's number; where no part is named, each frame is one."""
        part = self.sent + 1 if part is None else part
        message = encode(pixels, self.sent, part=part, exposed_ns=time.monotonic_ns())
        self._socket.send_multipart(message, zmq.NOBLOCK)
        self.sent += 1
        return self.sent - 1

    async def show_on(self) -> None:
        """Until cancelled."""
        while True:
            self.show(self.picture())
            await asyncio.sleep(1 / FPS)

    def stop_showing(self) -> None:
        self._showing.cancel()

    def heard(self) -> bool:
        """The daemon has connected."""
        return bool(self._socket.poll(0, zmq.POLLOUT))

    async def __aenter__(self) -> "LineHere":
        """Shows frames already, and judges them."""
        self.serving = asyncio.create_task(serve(self.service))
        await until(lambda: self.service.parts.score.ready or self.serving.done(), 60)
        await until(lambda: self.heard() or self.serving.done(), 10)
        self._showing = asyncio.create_task(self.show_on())
        await until(lambda: bool(self.verdicts) or self.serving.done(), 10)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._showing.cancel()
        self.service.request_stop()
        await self.serving
        self._socket.close()
        self._context.term()

    @property
    def worker(self) -> int:
        worker = self.service.parts.score.worker
        assert worker is not None
        return worker.pid

    def judged(self, *, frames_per_part: int = 1, bad: Set[int] = frozenset()) -> Judged:
        """By the PLC's twin, all that was told so far."""
        return judge(self._told, {"left": 1}, frames_per_part=frames_per_part, bad=bad)

    def in_hand(self) -> set[int]:
        hands = self.service.parts.score._in_hand.values()
        return {f.exposure.id.sequence for hand in hands for f in hand.batch.frames}

    def restarted(self) -> set[int]:
        return {n for n, v in self.verdicts.items() if v.reason is Reason.WORKER_RESTART}

    async def stands_by(self) -> None:
        await until(lambda: self.service.parts.score._standby.ready, 60)

    async def judged_after(self, began_ns: int) -> float:
        """Seconds until a frame that came after that moment is judged."""

        def judged() -> bool:
            newest = list(self.verdicts.values())[-1]
            return newest.exposure.exposed_ns > began_ns and newest.outcome is Outcome.OK

        await until(judged, 30)
        return (time.monotonic_ns() - began_ns) / 1e9
