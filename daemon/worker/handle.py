"""The worker as the daemon holds it: started, spoken to, known to be gone. On the event loop."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

from daemon.errors import WorkerError
from daemon.worker.protocol import (
    PACKET,
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


class WorkerHandle:
    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process, self._control = process, control
        self.device = ""

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
            await handle.end()
            raise
        if not isinstance(answer, Ready):
            await handle.end()
            problem = answer.problem if isinstance(answer, Failed) else f"said {answer!r} first"
            raise WorkerError(f"scoring process: {problem}")
        handle.device = answer.device
        return handle

    def send(self, message: ToWorker) -> None:
        """Never waits: a socket's buffer holds far more than the two batches ever under way.

        Raises OSError where the worker is gone.
        """
        self._control.send(encode(message))

    async def serve(self, receive: Callable[[FromWorker], None]) -> None:
        """Hands on every answer; returns once the worker is gone and has been waited for."""
        loop = asyncio.get_running_loop()
        try:
            while packet := await self._receive(loop):
                receive(decode_from_worker(packet))
        finally:
            await self.end()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._control, PACKET)
        except ConnectionResetError:  # killed with our words unread: an end of file like any other
            return b""

    async def end(self) -> None:
        """Close the conversation, kill a worker that does not end by itself, and wait for it."""
        self._control.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _make_process(control: int, ring: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.worker.process", str(control), str(ring),
        pass_fds=(control, ring), stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
