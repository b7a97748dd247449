"""The wall clock steps by hours and the time zone changes under a running line: nothing happens.

The daemon runs under libfaketime, which moves CLOCK_REALTIME alone, as an administrator or a time
server would; CLOCK_MONOTONIC and everybody else's clocks stay what they are.
"""

import json
import signal
import struct
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from plant.broker import Broker
from plant.camera_process import CameraProcess
from plant.cell import Cell
from plant.daemon_process import running, wait_until
from plant.plc import Settings

from adapters.sources.product import SimulatedProduct

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
FPS = 10
BASE = "works/line4"
CONFIG = """
state_dir = "state"
[recipes.default]
bundle = "tiny.safetensors"
[worker]
device = "cpu"
[mqtt]
host = "127.0.0.1"
port = {port}
base = "{base}"
[cameras.left]
url = "zmq+{address}"
deadline_ms = 500
max_frame_bytes = 4096
[log]
format = "json"
"""


def test_steps_of_an_hour_and_another_time_zone_change_no_verdict(
    tiny_files: Path, tmp_path: Path
) -> None:
    assert LIBRARY is not None, "libfaketime is missing (Debian: faketime)"
    assert tiny_files.parent == tmp_path
    clock, zone = tmp_path / "clock", tmp_path / "zone"
    clock.write_text("+0")
    zone.symlink_to("/usr/share/zoneinfo/UTC")
    environment = {
        "LD_PRELOAD": str(LIBRARY), "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "TZ": f":{zone}",
    }  # fmt: skip
    began_ns = time.monotonic_ns() + 6_000_000_000
    camera = CameraProcess(
        f"ipc://{tmp_path}/left.sock", tmp_path / "left.count",
        SimulatedProduct("grain", 64, 64), FPS, began_ns,
    )  # fmt: skip
    with Broker(tmp_path) as broker:
        (tmp_path / "line.toml").write_text(
            CONFIG.format(port=broker.port, base=BASE, address=camera.address)
        )
        cell = Cell(
            broker, BASE, Settings(cameras=1, part_timeout_ms=600),
            began_ns=began_ns, period_ns=10**9 // FPS, travel_ns=700_000_000,
            truth=camera.defective,
        )  # fmt: skip
        config, state = tmp_path / "line.toml", tmp_path / "state"
        with cell, running(config, state, environment) as daemon, camera.running():
            wait_until(lambda: cell.accepted() >= 10, 40, "the line does not begin")
            first = len(cell.conveyor.decisions)
            for step in ("+3600", "+0", "-3600", "+7200", "+0"):
                clock.write_text(step)
                zone.unlink()
                zone.symlink_to("/usr/share/zoneinfo/Asia/Kolkata")
                seen = cell.accepted()
                daemon.signal(signal.SIGHUP)  # a line in the log, with its time
                wait_until(lambda n=seen: cell.accepted() >= n + 10, 20, f"after a step to {step}")
            last = len(cell.conveyor.decisions)
            assert daemon.stop() == 0
            said = [
                datetime.fromisoformat(line["timestamp"]).timestamp() - time.time()
                for line in daemon.said()
                if line["event"] == "configuration read again"
            ]
    decisions = [cell.conveyor.decisions[part] for part in range(first + 1, last + 1)]
    results = Counter(payload[2] for _, payload in cell.verdicts)
    ages = [struct.unpack_from("<H", payload, 20)[0] for _, payload in cell.verdicts]
    events = (tmp_path / "state/events.jsonl").read_text().splitlines()
    kinds = Counter(json.loads(event)["data"].get("kind") for event in events)
    print(f"\n{sum(decisions)} of {len(decisions)} parts passed over five steps, results "
          f"{dict(results)}, events {dict(kinds)}, age up to {max(ages)} ms")  # fmt: skip
    assert [round(seconds / 3600) for seconds in said] == [1, 0, -1, 2, 0], "the clock did step"
    assert all(decisions)
    assert set(results) == {1}
    assert max(ages) < 500
    assert kinds["down"] == 0
    assert cell.tally().lost == 0
