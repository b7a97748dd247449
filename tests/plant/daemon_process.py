"""The daemon as a process of its own, which a test may kill, freeze and start again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.records.ledger import Counts, Ledger

INSTANT = """\
from daemon.worker import handle
handle.PROGRAM = "plant.instant_worker"
{patch}
from daemon.cli import main
main()
"""


class DaemonProcess:
    def __init__(
        self,
        config: Path,
        state: Path,
        environment: Mapping[str, str] = {},
        defect_every: int | None = None,
        patch: str = "",
    ) -> None:
        """`state` is what the configuration names as `state_dir`; the log goes beside it. With
        `defect_every` the workers are `plant.instant_worker`; `patch` is a line of Python then."""
        self._command = ["-m", "daemon.cli"]
        if defect_every is not None:
            tests = str(Path(__file__).parents[1])
            environment = {
                **environment, "PLANT_DEFECT_EVERY": str(defect_every), "PYTHONPATH": tests,
            }  # fmt: skip
            self._command = ["-c", INSTANT.format(patch=patch)]
        self._config, self._state = config, state
        self._environment = {**os.environ, **environment}
        self.log = config.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Does not wait until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._command, "run", str(self._config)],
                stderr=log, env=self._environment,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """In good order; the exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        return self.process.wait(30)

    def workers(self) -> list[int]:
        """Process ids, the oldest first: the one that serves, then the one that stands by."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return sorted(int(child) for child in path.read_text().split())

    def counts(self, camera: str) -> Counts:
        """As another process reads them."""
        ledger = Ledger(self._state / "ledger", writable=False)
        return next(a.counts() for a in ledger.accounts() if a.camera == camera)

    def numbered_before(self, camera: str) -> int:
        """How many frames the camera had numbered before the daemon first heard it; as long as
        none was missed. Both words are of one moment."""
        ledger = Ledger(self._state / "ledger", writable=False)
        account = next(a for a in ledger.accounts() if a.camera == camera)
        received, _, sequence = account._received.read()
        return sequence + 1 - received

    def said(self) -> list[dict[str, Any]]:
        """Its log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def memory(pid: int | str, what: str) -> int:
    """Bytes: VmRSS, VmSize, … of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[what].split()[0]) * 1024


@contextmanager
def running(
    config: Path,
    state: Path,
    environment: Mapping[str, str] = {},
    defect_every: int | None = None,
    patch: str = "",
) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(config, state, environment, defect_every, patch)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.signal(signal.SIGCONT)
            daemon.kill()


def wait_until(true: Any, seconds: float, what: str) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.002)
    return time.monotonic() - began
