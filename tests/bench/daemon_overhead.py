"""What the daemon itself costs: two cameras, the ring, every station, ledger and outbox, and a
worker that answers at once.

    python tests/bench/daemon_overhead.py [--fps 2000] [--seconds 10] [--side 512] [--mqtt]

With --mqtt a real mosquitto and a subscriber in a process of its own are there as well; then the
time from the exposure to the subscriber's hand is measured too. With a worker that answers at once
that is all but the scoring.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
from plant.broker import Broker  # noqa: E402
from plant.bundles import calibration_for, tiny_bundle  # noqa: E402

from adapters.ports import FrameFormat, Intake, Outcome, Reason, Shot, Verdict  # noqa: E402
from daemon import config, edges, wiring  # noqa: E402
from daemon.deadlines import percentile  # noqa: E402
from daemon.service import serve  # noqa: E402
from daemon.worker import handle  # noqa: E402
from model.calibration import beside  # noqa: E402

BASE = "bench"
WARM_UP_S = 2.0
CONFIG = """
state_dir = "state"
[recipes.default]
bundle = "tiny.safetensors"
[log]
level = "warning"
"""
CAMERA = """
[cameras.{name}]
url = "pool:{name}"
deadline_ms = 200
max_fps = {fps}
max_frame_bytes = {bytes}
"""
MQTT = """
[mqtt]
host = "127.0.0.1"
port = {port}
base = "{base}"
"""


@dataclass
class PoolSource:
    """Shows pictures from memory, at its pace: the one copy of the way of a frame is here."""

    fps: float
    side: int
    counts_on = False

    def __post_init__(self) -> None:
        dice = np.random.default_rng(1)
        self._pictures = dice.integers(30, 220, (8, self.side, self.side, 1), np.uint8)
        self._stopped = threading.Event()

    def stream(self, intake: Intake) -> None:
        frame, began_ns = FrameFormat.of(self._pictures[0]), time.monotonic_ns()
        k = 0
        while not self._stopped.is_set():
            due_ns = began_ns + round(k * 1e9 / self.fps)
            if (early_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
                time.sleep(early_s)
            shot = Shot(k, time.monotonic_ns(), part=k + 1)
            lease = intake.lend(frame, wait=False)
            if lease is None:
                intake.unseen(shot, Reason.OVERLOAD)
            else:
                np.copyto(lease.pixels, self._pictures[k % 8])
                intake.arrived(shot, lease)
            k += 1

    def stop(self) -> None:
        self._stopped.set()


class Told:
    """Keeps numbers only: objects by the ten thousand would make the collector's pauses ours."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.exposed_ns: dict[tuple[int, int], int] = {}
        """By camera number and sequence, of the frames judged."""
        self.uninspected = 0

    def tell(self, verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.OK:
            self.uninspected += 1
            return
        name = verdict.exposure.id
        number = int(name.camera.removeprefix("camera")) + 1
        self.latencies_ms.append(verdict.latency_ms)
        self.exposed_ns[number, name.sequence] = verdict.exposure.exposed_ns


async def away(samples: list[float]) -> None:
    """How long the loop is away from a task that wants every millisecond: milliseconds."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        samples.append(1000 * (time.perf_counter() - before) - 1)


async def measure(
    folder: Path, given: argparse.Namespace, port: int | None
) -> tuple[dict[str, Any], Told]:
    cameras = [f"camera{k}" for k in range(given.cameras)]
    text = CONFIG + "".join(
        CAMERA.format(name=n, fps=given.fps / len(cameras), bytes=given.side**2) for n in cameras
    )
    text += "" if port is None else MQTT.format(port=port, base=BASE)
    (folder / "line.toml").write_text(text)
    told = Told()
    service = wiring.build(config.load(folder / "line.toml"), folder, (told,))
    serving = asyncio.create_task(serve(service))
    async with asyncio.timeout(60):  # the start of the worker that stands by is not the way
        while not serving.done() and not (told.latencies_ms and service.parts.score._standby.ready):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(WARM_UP_S)
    told.latencies_ms.clear()
    told.exposed_ns.clear()
    told.uninspected = 0
    samples: list[float] = []
    watching = asyncio.create_task(away(samples))
    cpu_s, began_s = time.process_time(), time.monotonic()
    await asyncio.sleep(given.seconds)
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    watching.cancel()
    latencies, uninspected = told.latencies_ms[:], told.uninspected
    service.request_stop()
    await serving
    result = {
        "frames_per_second": round(len(latencies) / took_s, 1),
        "uninspected": uninspected,
        "cpu_us_per_frame": round(1e6 * cpu_s / max(1, len(latencies)), 1),
        "latency_ms": figures(latencies),
        "loop_away_ms": figures(samples),
    }
    return result, told


def delivery(told: Told, heard: list[tuple[int, int, int]]) -> dict[str, float]:
    """Milliseconds from exposure to the subscriber's hand."""
    arrived = {(camera, sequence): at_ns for camera, sequence, at_ns in heard}
    took = [(arrived[k] - at_ns) / 1e6 for k, at_ns in told.exposed_ns.items() if k in arrived]
    return figures(took) | {"lost": len(told.exposed_ns) - len(took)}


def figures(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(percentile(values, 50), 2),
        "p99": round(percentile(values, 99), 2),
        "max": round(max(values, default=0.0), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fps", type=float, default=2000, help="over all cameras")
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--mqtt", action="store_true")
    given = parser.parse_args()
    edges._SOURCES["pool"] = lambda _, __: PoolSource(given.fps / given.cameras, given.side)
    handle.PROGRAM, os.environ["PYTHONPATH"] = "plant.instant_worker", str(TESTS)
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder, listening = Path(made), None
        bundle = tiny_bundle()
        bundle.save(folder / "tiny.safetensors")
        calibration_for(bundle).save(beside(folder / "tiny.safetensors"))
        port = stack.enter_context(Broker(folder)).port if given.mqtt else None
        if port is not None:
            listening = subprocess.Popen(
                [sys.executable, TESTS / "bench/listen.py", str(port), BASE],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        result, told = asyncio.run(measure(folder, given, port))
        if listening is not None:
            heard, _ = listening.communicate("", timeout=30)
            result["exposure_to_delivery_ms"] = delivery(told, json.loads(heard))
        print(json.dumps(result))


if __name__ == "__main__":
    main()
