"""A camera as a process of its own, which a test may kill: it exposes by the clock and counts.

Part p comes by at began_ns + (p - 1) / fps on CLOCK_MONOTONIC. What was due while the process was
dead or asleep was never exposed: no frame, no number. Frames are numbered by a count in a file that
outlives a SIGKILL, and counted before they are sent; one that cannot be sent at once is lost.
"""

import argparse
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

from adapters.ports import Pixels
from adapters.sources.frame_message import encode
from adapters.sources.product import SimulatedProduct

DISTINCT = 64
"""Pictures drawn at the start and shown in turn, so that a camera costs next to nothing."""
QUEUE_FRAMES = 4


@dataclass(frozen=True)
class Exposed:
    frames: int
    """Their numbers are 0 to frames - 1."""
    last_part: int


@dataclass(frozen=True)
class CameraProcess:
    """What it shows and when: the test knows the truth about every part from its number."""

    address: str
    """It binds this, and sends with PUSH."""
    state: Path
    product: SimulatedProduct
    """Gray, 8 bit."""
    fps: float
    began_ns: int

    def start(self) -> subprocess.Popen[bytes]:
        """The process, from now on the caller's to end."""
        product = self.product
        options = {
            "fps": self.fps, "kind": product.kind, "height": product.height,
            "width": product.width, "seed": product.seed, "defect-rate": product.defect_rate,
            "contrast": product.contrast, "began-ns": self.began_ns,
        }  # fmt: skip
        flags = [f"--{name}={value}" for name, value in options.items()]
        return subprocess.Popen([sys.executable, __file__, self.address, self.state, *flags])

    @contextmanager
    def running(self, end: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
        """From here on; ended by the signal."""
        process = self.start()
        try:
            yield process
        finally:
            process.send_signal(end)
            process.send_signal(signal.SIGCONT)  # it may have been stopped
            code = process.wait(10)
        assert code == (0 if end is signal.SIGTERM else -end)

    def picture(self, part: int) -> Pixels:
        return self.product.part((part - 1) % DISTINCT).pixels

    def defective(self, part: int) -> bool:
        return self.product.part((part - 1) % DISTINCT).defect is not None

    def exposed_ns(self, part: int) -> int:
        return self.began_ns + round((part - 1) * 1e9 / self.fps)

    def exposed(self) -> Exposed:
        """By its own count; from any process, also after a kill, which may come between the two."""
        frames, part = np.fromfile(self.state, np.uint64, 2)
        return Exposed(int(frames), int(part))

    def expose(self) -> None:
        """Until the process ends."""
        pictures = [self.picture(part) for part in range(1, DISTINCT + 1)]
        count = _mapped(self.state)
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.linger = 1000  # a good end sends what it counted
            socket.sndhwm = QUEUE_FRAMES
            socket.bind(self.address)
            part = self._last_due()
            while not over.is_set():
                part = max(part + 1, self._last_due())
                due_ns = self.exposed_ns(part)
                while (left_ns := due_ns - time.monotonic_ns()) > 0:
                    time.sleep(left_ns / 1e9)
                sequence = int(count[0])
                count[1] = part
                count[0] = sequence + 1
                pixels = pictures[(part - 1) % DISTINCT]
                message = encode(pixels, sequence, part=part, exposed_ns=due_ns)
                with suppress(zmq.Again):  # it shows as a gap in the numbers
                    socket.send_multipart(message, zmq.NOBLOCK)

    def _last_due(self) -> int:
        """The part that came by last; 0 where none did yet."""
        now_ns = time.monotonic_ns()
        part = max(0, int((now_ns - self.began_ns) * self.fps / 1e9)) + 1  # give or take one
        while part and self.exposed_ns(part) > now_ns:
            part -= 1
        return part


def _mapped(path: Path) -> np.ndarray:
    """Frames exposed and the last one's part: two aligned words, each whole after any kill."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        file.truncate(16)
        return np.frombuffer(mmap.mmap(file.fileno(), 16), np.uint64)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("state", type=Path)
    parser.add_argument("--fps", type=float, required=True)
    parser.add_argument("--kind", default="woven")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--defect-rate", type=float, default=0.0)
    parser.add_argument("--contrast", type=float, default=1.0)
    parser.add_argument("--began-ns", type=int, required=True)
    given = parser.parse_args(arguments)
    product = SimulatedProduct(
        given.kind, given.height, given.width, seed=given.seed, defect_rate=given.defect_rate,
        contrast=given.contrast,
    )  # fmt: skip
    CameraProcess(given.address, given.state, product, given.fps, given.began_ns).expose()


if __name__ == "__main__":
    main(sys.argv[1:])
