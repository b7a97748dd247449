"""The worker as the daemon holds it: started, spoken to, watched, known to be gone. Event loop."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

import structlog

from daemon.errors import WorkerError
from daemon.worker.protocol import (
    BEAT_SECONDS,
    PACKET,
    Alive,
    Failed,
    FromWorker,
    Load,
    Ready,
    ToWorker,
    decode_from_worker,
    encode,
    pair,
)
from daemon.worker.ring import Ring

START_SECONDS = 120.0  # torch alone takes 4 s, a first CUDA context on a cold machine far more
END_SECONDS = 5.0
SILENT_BEATS = 10
"""So many beats in a row unheard, and the worker hangs."""

log = structlog.get_logger()


class WorkerHandle:
    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process, self._control = process, control
        self.device = ""
        self.receive: Callable[[FromWorker], None] = lambda _: None
        """Who is told its answers; while it only stands by, nobody."""
        self.gone = asyncio.Event()
        """It ended and was waited for: nothing of it touches the ring any more."""
        self.silent_beats = 0
        self._heard = False
        self._life: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @staticmethod
    async def start(ring: Ring, load: Load) -> "WorkerHandle":
        """A worker that is ready to score. Raises WorkerError with its own reason."""
        ours, theirs = pair()
        ours.setblocking(False)
        with contextlib.ExitStack() as on_failure, theirs:
            on_failure.callback(ours.close)
            making = asyncio.ensure_future(_make_process(theirs.fileno(), ring.fd))
            try:
                process = await asyncio.shield(making)
            except asyncio.CancelledError:  # a process half made would be nobody's
                await WorkerHandle(await making, ours).end()
                raise
            on_failure.pop_all()
        handle = WorkerHandle(process, ours)
        try:
            handle.send(load)
            async with asyncio.timeout(START_SECONDS):
                first = await asyncio.get_running_loop().sock_recv(ours, PACKET)
            answer = decode_from_worker(first) if first else Failed("ended before it was ready")
        except TimeoutError:
            answer = Failed(f"was not ready within {START_SECONDS:.0f} s")
        except OSError as error:
            answer = Failed(f"does not answer: {error.strerror}")
        except asyncio.CancelledError:
            handle.kill()  # it loads, and would not hear us for seconds
            await handle.end()
            raise
        if not isinstance(answer, Ready):
            await handle.end()
            problem = answer.problem if isinstance(answer, Failed) else f"said {answer!r} first"
            raise WorkerError(f"scoring process: {problem}")
        handle.device = answer.device
        handle._life = asyncio.create_task(handle._live(), name=f"worker-{handle.pid}")
        return handle

    def send(self, message: ToWorker) -> None:
        """Never waits: a socket's buffer holds far more than the two batches ever under way.

        Raises OSError where the worker is gone.
        """
        self._control.send(encode(message))

    def kill(self) -> None:
        """At once, also where it was stopped; `gone` follows."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Close the conversation, kill a worker that does not end by itself, and wait for it."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        else:
            await self._end()

    async def _live(self) -> None:
        """Hands on every answer; ends with the worker, which was then waited for."""
        loop = asyncio.get_running_loop()
        watching = asyncio.create_task(self._watch())
        try:
            while packet := await self._packet(loop):
                self._heard = True
                message = decode_from_worker(packet)
                if isinstance(message, Failed):
                    log.error("worker failed", pid=self.pid, problem=message.problem)
                elif not isinstance(message, Alive):
                    self.receive(message)
        finally:
            watching.cancel()
            await self._end()

    async def _packet(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._control, PACKET)
        except ConnectionResetError:  # killed with our words unread: an end of file like any other
            return b""

    async def _watch(self) -> None:
        """Kills a worker that hangs. Beats are counted, not timed: where this process itself was
        stopped for a while, nobody else is to blame."""
        while self.silent_beats < SILENT_BEATS:
            self._heard = False
            await asyncio.sleep(BEAT_SECONDS)
            self.silent_beats = 0 if self._heard else self.silent_beats + 1
        log.error("worker hangs", pid=self.pid, silent_s=SILENT_BEATS * BEAT_SECONDS)
        self.kill()

    async def _end(self) -> None:
        self._control.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self.gone.set()


async def _make_process(control: int, ring: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", PROGRAM, str(control), str(ring),
        pass_fds=(control, ring), stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


PROGRAM = "daemon.worker.process"
