"""A line whose every frame is a defect, its cameras, and the account of what its events told.

Each event goes to Kafka and, as JSON lines, to the disk. The second sink is the witness of what was
committed: it is local, and takes everything once.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import ConsumerRecord
from plant.camera_process import CameraProcess
from plant.daemon_process import DaemonProcess, running, wait_until
from plant.kafka import KafkaBroker

from adapters.jsonl_files import JsonLinesReader
from adapters.ports import Reason
from adapters.sources.product import SimulatedProduct
from daemon.errors import StateError
from daemon.records.outbox_report import report
from model.bundle import Bundle
from model.calibration import Calibration, beside

NAMES = ("left", "right")
TOPICS = tuple(f"clearline.{kind}.v1" for kind in ("defect", "camera", "line"))
FPS = 20
DEADLINE_MS = 1000
CONFIG = """
line = "line3"
state_dir = "state"
drain_seconds = 30
[recipes.default]
bundle = "tiny.safetensors"
[worker]
device = "cpu"
[kafka]
bootstrap = ["{kafka}"]
[events]
jsonl = "events.jsonl"
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


@dataclass
class EventLine:
    folder: Path
    daemon: DaemonProcess
    slow: int = 0
    """Verdicts that came late while the daemon was just starting: pictures that had waited for it
    in its cameras' sockets."""

    def comes_up(self) -> None:
        """After a start: returns once every camera's frames are judged."""
        self.inspects(60.0)
        self.slow = self.late()

    def dies(self) -> None:
        """kill -9; nothing may have been late before."""
        assert self.late() == self.slow
        self.daemon.kill()

    def late(self) -> int:
        return sum(
            self.ledger(name).uninspected.get(reason, 0)
            for name in NAMES
            for reason in (Reason.LATE, Reason.OVERLOAD)
        )

    def ledger(self, camera: str) -> Any:
        return self.daemon.counts(camera)

    def inspects(self, seconds: float = 20.0) -> None:
        """Returns once every camera's frames are judged, from now on."""
        before = {name: self.decided(name) for name in NAMES}
        wait_until(
            lambda: all(self.decided(name) > before[name] + FPS // 2 for name in NAMES),
            seconds, "both cameras' frames are judged",
        )  # fmt: skip

    def decided(self, camera: str) -> int:
        try:
            return int(self.ledger(camera).defect)
        except (StopIteration, StateError):  # it is just starting
            return 0

    def waiting(self) -> int:
        """Events that Kafka does not have."""
        return int(report(self.folder / "state")["waiting_by_sink"]["kafka"])

    def committed(self) -> list[dict[str, Any]]:
        """Of all runs, in their order; each once."""
        reader = JsonLinesReader(self.folder / "events.jsonl")
        try:
            found = {(event["source"], event["id"]): event for event in reader.read()}
            return list(found.values())
        finally:
            reader.close()


@contextmanager
def line(
    folder: Path,
    bundle: Bundle,
    calibration: Calibration,
    kafka: str,
    more: str = "",
    patch: str = "",
) -> Iterator[EventLine]:
    """Does not wait until it inspects. `kafka`: the broker's address; `patch`: a line of Python
    that the daemon runs first."""
    bundle.save(folder / "tiny.safetensors")
    calibration.save(beside(folder / "tiny.safetensors"))
    cameras = {
        name: CameraProcess(
            f"ipc://{folder}/{name}.sock", folder / f"{name}.count",
            SimulatedProduct("woven", 64, 64, seed=seed), FPS, time.monotonic_ns(),
        )
        for seed, name in enumerate(NAMES)
    }  # fmt: skip
    text = CONFIG.format(kafka=kafka) + more + "".join(
        CAMERA.format(name=name, address=camera.address, deadline_ms=DEADLINE_MS, fps=FPS)
        for name, camera in cameras.items()
    )  # fmt: skip
    (folder / "line.toml").write_text(text)
    with ExitStack() as stack:
        for camera in cameras.values():
            stack.enter_context(camera.running())
        daemon = stack.enter_context(
            running(folder / "line.toml", folder / "state", defect_every=1, patch=patch)
        )
        yield EventLine(folder, daemon)


@dataclass(frozen=True)
class Arrived:
    """What a consumer has in hand."""

    by_id: Mapping[tuple[str, str], dict[str, Any]]
    order: Mapping[tuple[str, str], list[str]]
    """By topic and key: ids, each where it came first."""
    duplicates: int


async def arrived(broker: KafkaBroker) -> Arrived:
    by_id: dict[tuple[str, str], dict[str, Any]] = {}
    order: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    duplicates = 0
    for topic in TOPICS:
        for record in await broker.read_all(topic):
            source, id_ = _header(record, "ce_source"), _header(record, "ce_id")
            data = json.loads(record.value)
            if (source, id_) in by_id:
                assert by_id[source, id_] == data, "a second copy says something else"
                duplicates += 1
                continue
            by_id[source, id_] = data
            order[topic, record.key.decode()].append(id_)
    return Arrived(by_id, order, duplicates)


def check(line: EventLine, there: Arrived) -> None:
    """Nothing that was committed is missing, nothing came out of order, and together the events
    tell of every verdict that the ledger has."""
    committed = line.committed()
    ids = {(event["source"], event["id"]) for event in committed}
    assert there.by_id.keys() == ids, (len(ids), len(there.by_id))
    expected: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for event in committed:
        expected[event["type"], event["partitionkey"]].append(event["id"])
    assert there.order == expected
    told: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
    for data in there.by_id.values():
        match data:
            case {"verdict": "defect", "late": False}:
                told[data["camera"]]["defects"] += data["strips"]
            case {"kind": "uninspected" | "gap" | "unrecorded"}:
                told[data["camera"]]["uninspected"] += data["count"]
            case {"kind": "unreported"}:
                told[data["camera"]].update(
                    defects=data["defects"], uninspected=data["uninspected"]
                )
    for name in NAMES:
        counts = line.ledger(name)
        assert told[name]["defects"] == counts.defect
        assert told[name]["uninspected"] == sum(counts.uninspected.values())
        assert counts.in_flight == 0
    assert line.late() == line.slow, "a verdict was late for it"


def _header(record: ConsumerRecord, name: str) -> str:
    return next(value.decode() for key, value in record.headers if key == name)
