"""A whole line under random kills and freezes: no part passes unseen, and every frame is counted.

Two cameras, the daemon with its workers, a real broker, and the PLC at the gate as the judge. Each
is a process of its own, and in each round one of them is killed or frozen at a random moment.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from plant.broker import Broker
from plant.camera_process import DISTINCT, CameraProcess
from plant.cell import Cell
from plant.daemon_process import running, wait_until
from plant.plc import Settings

from adapters.ports import Reason
from adapters.sources.product import SimulatedProduct
from model.bundle import Bundle
from model.calibration import Calibration, beside
from model.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("left", "right")
FPS = 15
ROUNDS = 10
BASE = "works/line3"
DEADLINE_MS = 400
TRAVEL_MS = 700
COME_BACK_S = 60.0
CONFIG = """
line = "line3"
state_dir = "state"
[recipes.default]
bundle = "tiny.safetensors"
[worker]
device = "cpu"
[mqtt]
host = "127.0.0.1"
port = {port}
base = "{base}"
[log]
format = "json"
"""
CAMERA = """
[cameras.{name}]
url = "zmq+{address}"
deadline_ms = {deadline_ms}
max_fps = {fps}
max_frame_bytes = 4096
"""
FAULTS = [
    (how, whom) for how in ("kill", "freeze") for whom in ("worker", "daemon", "broker", *NAMES)
]


class Line:
    """What there is to be broken."""

    def __init__(
        self, folder: Path, stack: ExitStack, cameras: dict[str, CameraProcess], began_ns: int
    ) -> None:
        self.cameras = cameras
        self.broker = stack.enter_context(Broker(folder))
        text = CONFIG.format(port=self.broker.port, base=BASE) + "".join(
            CAMERA.format(name=name, address=c.address, deadline_ms=DEADLINE_MS, fps=FPS)
            for name, c in cameras.items()
        )
        (folder / "line.toml").write_text(text)
        self.daemon = stack.enter_context(running(folder / "line.toml", folder / "state"))
        self.cell = stack.enter_context(
            Cell(
                self.broker, BASE,
                Settings(cameras=len(cameras), part_timeout_ms=TRAVEL_MS - 50),
                began_ns=began_ns, period_ns=round(1e9 / FPS), travel_ns=TRAVEL_MS * 1_000_000,
                truth=lambda part: any(c.defective(part) for c in cameras.values()),
            )
        )  # fmt: skip
        self.shows: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self._end_cameras)
        for name in cameras:
            self.start_camera(name)

    def start_camera(self, name: str) -> None:
        self.shows[name] = self.cameras[name].start()

    def end_camera(self, name: str, how: signal.Signals) -> None:
        self.shows[name].send_signal(how)
        self.shows[name].wait(10)

    def break_and_mend(self, how: str, whom: str, dice: random.Random) -> None:
        """Killed, and started again by whoever would do it; or frozen, and thawed."""
        if whom == "worker":
            (serving, *_) = self.daemon.workers()
            os.kill(serving, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            return  # its mending is the daemon's
        if how == "kill":
            kill, start = {
                "daemon": (self.daemon.kill, self.daemon.start),
                "broker": (self.broker.kill, self.broker.start),
            }.get(whom) or (
                lambda: self.end_camera(whom, signal.SIGKILL), lambda: self.start_camera(whom)
            )  # fmt: skip
        else:
            kill, start = {
                "daemon": (
                    lambda: self.daemon.signal(signal.SIGSTOP),
                    lambda: self.daemon.signal(signal.SIGCONT),
                ),
                "broker": (self.broker.freeze, self.broker.thaw),
            }.get(whom) or (
                lambda: self.shows[whom].send_signal(signal.SIGSTOP),
                lambda: self.shows[whom].send_signal(signal.SIGCONT),
            )
        kill()
        time.sleep(dice.uniform(0.1, 2.5))
        start()

    def _end_cameras(self) -> None:
        for process in self.shows.values():
            process.kill()
            process.wait(10)


@pytest.fixture
def products(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: Callable[..., Calibration]
) -> dict[str, SimulatedProduct]:
    """Their defects are gross, so that an untrained model tells them: here it is not about it."""
    made = {
        name: SimulatedProduct("grain", 64, 64, seed=seed, defect_rate=0.2, contrast=10)
        for seed, name in enumerate(NAMES, start=5)
    }
    engine, scores = Engine(tiny_bundle, "cpu"), {True: [], False: []}
    for product in made.values():
        for k in range(DISTINCT):
            part = product.part(k)
            scores[part.defect is not None].append(engine.score([part.pixels])[0].score)
    best, worst = max(scores[False]), min(scores[True])
    assert 2 * best < worst
    tiny_bundle.save(tmp_path / "tiny.safetensors")
    calibration = calibration_for(tiny_bundle, threshold=(best * worst) ** 0.5)
    calibration.save(beside(tmp_path / "tiny.safetensors"))
    return made


@pytest.fixture
def line(tmp_path: Path, products: dict[str, SimulatedProduct]) -> Iterator[Line]:
    began_ns = time.monotonic_ns() + 6_000_000_000
    cameras = {
        name: CameraProcess(
            f"ipc://{tmp_path}/{name}.sock", tmp_path / f"{name}.count", product, FPS, began_ns
        )
        for name, product in products.items()
    }
    with ExitStack() as stack:
        yield Line(tmp_path, stack, cameras, began_ns)


def test_ten_rounds_of_kills_and_freezes_pass_no_part_and_lose_no_frame(
    line: Line, tmp_path: Path
) -> None:
    seed = time.time_ns() % 10**6
    dice = random.Random(seed)
    print(f"\nseed {seed}")
    wait_until(lambda: line.cell.accepted() >= 20, COME_BACK_S, "the line does not begin")
    # What the cameras exposed before the daemon first heard them is nobody's.
    before = {name: line.daemon.numbered_before(name) for name in NAMES}
    faults = dice.sample(FAULTS, len(FAULTS))[:ROUNDS]
    for how, whom in faults:
        time.sleep(dice.uniform(0.2, 1.5))
        line.break_and_mend(how, whom, dice)
        part = line.cell.newest_part()
        took_s = wait_until(lambda n=part: line.cell.passed_since(n), COME_BACK_S, f"{how} {whom}")
        print(f"{how:>6} {whom:<7} a new part passes {took_s:5.2f} s after it was mended")

    accepted = line.cell.accepted()
    wait_until(lambda: line.cell.accepted() >= accepted + 20, COME_BACK_S, "calm again")
    for name in NAMES:
        line.end_camera(name, signal.SIGTERM)
    wait_until(lambda: not any(line.daemon.counts(n).in_flight for n in NAMES), 10, "all decided")
    assert line.daemon.stop() == 0

    told = [json.loads(text) for text in (tmp_path / "state/events.jsonl").read_text().splitlines()]
    announced = Counter[str]()
    for event in told:
        if event["data"].get("kind") == "unrecorded":
            announced[event["data"]["camera"]] += event["data"]["count"]
    for name, camera in line.cameras.items():
        counts = line.daemon.counts(name)
        print(f"{name}: exposed {camera.exposed().frames}, {counts}")
        assert counts.received == camera.exposed().frames - before[name]
        assert counts.in_flight == 0
        assert counts.uninspected.get(Reason.DAEMON_RESTART, 0) == announced[name]
    tally = line.cell.tally()
    print(tally)
    assert tally.passed_defective == ()
    assert tally.passed_without_ok == ()
    assert tally.passed > 100
