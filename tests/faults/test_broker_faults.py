"""A broker that is away, dead, frozen or slow costs no verdict its time on any other road."""

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plant.broker import Broker, free_port
from plant.line_here import LineHere
from plant.mqtt import BASE, until

from adapters.ports import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SECONDS = 4.0
AWAY_MS = 250.0
"""A call that waits for a broker is away for seconds; less may be the other processes' doing."""
CONFIG = """
[recipes.default]
bundle = "tiny.safetensors"
[mqtt]
host = "{host}"
port = {port}
base = "{base}"
"""


@contextlib.contextmanager
def slow_road(broker: Broker) -> Iterator[int]:
    """A port that hands on to the broker a few bytes at a time: 200 a second each way."""
    over, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    threads = []

    def drip(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.1) and (some := source.recv(20)):
                sink.sendall(some)
        source.close()
        sink.close()

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                near, _ = listener.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                far = socket.create_connection(("127.0.0.1", broker.port))
                for pair in ((near, far), (far, near)):
                    threads.append(threading.Thread(target=drip, args=pair, daemon=True))
                    threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield listener.getsockname()[1]
    over.set()
    accepting.join()
    listener.close()


class LoopWatch:
    """How long the event loop was away at most, seen by a task that wants a turn every ms."""

    def __init__(self) -> None:
        self.away_ms = 0.0

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.away_ms = max(self.away_ms, 1000 * (time.perf_counter() - before) - 1)


FAULTS: dict[str, Callable[[Broker], None]] = {
    "killed": Broker.kill,
    "frozen": Broker.freeze,
    "killed and back": Broker.restart,
}


@pytest.mark.parametrize("how", ["away", "black hole", "slow", *FAULTS])
async def test_a_broker_that_fails_costs_no_verdict_its_deadline(
    how: str, tmp_path: Path, tiny_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is scored is of no matter here; torch's start and its threads would be.
    monkeypatch.setattr("daemon.worker.handle.PROGRAM", "plant.instant_worker")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    assert tiny_files.parent == tmp_path
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Broker(tmp_path))
        host, port = "127.0.0.1", broker.port
        if how == "away":
            port = free_port()
        elif how == "black hole":  # an address for documentation: nobody answers, nobody refuses
            host, port = "192.0.2.1", 1883
        elif how == "slow":
            port = stack.enter_context(slow_road(broker))
        more = CONFIG.format(host=host, port=port, base=BASE)
        async with LineHere(tmp_path, more, deadline_ms=500) as line:
            watch, first = LoopWatch(), len(line.verdicts)
            watching = asyncio.create_task(watch.watch())
            await until(lambda: len(line.verdicts) > first + 20)
            FAULTS.get(how, lambda _: None)(broker)
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > SECONDS, SECONDS + 5)
            watching.cancel()
            verdicts = list(line.verdicts.values())[first:]
            outcomes = Counter(v.outcome for v in verdicts)
            slowest_ms = max(v.latency_ms for v in verdicts)
        at_gate = line.judged()
        assert at_gate.without_ok == ()
        assert at_gate.passed >= len(verdicts)
        print(f"\n{how}: {len(verdicts)} verdicts, {dict(outcomes)}, slowest {slowest_ms:.1f} ms, "
              f"loop away {watch.away_ms:.1f} ms at most")  # fmt: skip
    assert set(outcomes) == {Outcome.OK}
    assert len(verdicts) > 20 * SECONDS
    assert watch.away_ms < AWAY_MS
