"""The disk is full and becomes free again: verdicts go on as if nothing were, what had to be given
up is counted and announced, and the service comes back by itself. On a small disk of our own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plant.daemon_process import wait_until
from plant.event_line import FPS, NAMES, EventLine, line

from adapters.ports import Event
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import Damage, Shed
from model.bundle import Bundle
from model.calibration import Calibration

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CalibrationFor = Callable[..., Calibration]
DISK_BYTES = 16 << 20
NOBODY = "127.0.0.1:1"
FULL_S = 6
IN_MEMORY = 100  # events; 40 come in a second
MORE = """
[evidence]
folder = "state/pictures"
[outbox]
max_bytes = 1073741824
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder `state` with a filesystem of its own."""
    state = tmp_path / "state"
    state.mkdir()
    if os.geteuid() != 0:
        pytest.fail("to mount a small filesystem this test must be run by root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "clearline-test", str(state)]
    subprocess.run(mount, check=True)
    yield state
    subprocess.run(["umount", str(state)], check=True)


def fill(disk: Path) -> Path:
    """With a file of someone else's, to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def rate(there: EventLine, seconds: float) -> float:
    """Frames of one camera that are judged in a second."""
    before = there.decided(NAMES[0])
    took = wait_until(
        lambda: there.decided(NAMES[0]) > before + FPS * seconds, 4 * seconds, "frames are judged"
    )
    return (there.decided(NAMES[0]) - before) / took


def test_a_full_disk_costs_pictures_then_events_and_never_a_verdict(
    tmp_path: Path, disk: Path, tiny_bundle: Bundle, calibration_for: CalibrationFor
) -> None:
    """Nor a start: the line is killed and started again meanwhile."""
    few = f"from daemon.records import outbox; outbox.MOST_IN_MEMORY = {IN_MEMORY}"
    calibration = calibration_for(tiny_bundle)
    with line(tmp_path, tiny_bundle, calibration, NOBODY, MORE, few) as there:
        there.comes_up()
        wait_until(lambda: len(list(disk.glob("pictures/*.png"))) > 30, 30, "there are pictures")
        ballast = fill(disk)
        assert rate(there, FULL_S) > FPS * 0.9, "verdicts go on"
        assert not list(disk.glob("pictures/*.png")), "pictures gave way before events did"
        assert "outbox not written" in {said["event"] for said in there.daemon.said()}
        there.dies()
        fill(disk)
        there.daemon.start()
        there.comes_up()
        assert rate(there, FULL_S) > FPS * 0.9, "and after a start on a full disk"
        ballast.unlink()
        wait_until(lambda: there.waiting() > 0, 20, "the outbox can be read")
        before = there.waiting()
        wait_until(lambda: there.waiting() > before + 50, 20, "events are stored again")
        assert there.daemon.stop() == 0
        late = there.late() - there.slow
        there.daemon.start()  # what the kill left could not be announced on a full disk
        there.comes_up()
        assert there.daemon.stop() == 0
        committed = [event["data"] for event in there.committed()]
    assert late == 0, "a verdict was late for it"
    shed = [data for data in committed if data.get("kind") == "shed"]
    assert sum(data["pictures"] for data in shed) > 0
    assert sum(data["events"]["defect"] for data in shed) > 0
    found = sum(data.get("verdict") == "defect" for data in committed)
    found += sum(data["events"]["defect"] for data in shed)
    found += sum(data["defects"] for data in committed if data.get("kind") == "unreported")
    assert found == sum(there.ledger(name).defect for name in NAMES), "all of it is accounted for"


def test_what_memory_cannot_hold_is_given_up_in_the_configured_order(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.records.outbox.MOST_IN_MEMORY", 100)
    monkeypatch.setattr("daemon.records.outbox.RETRY_SECONDS", 0.1)
    outbox = Outbox(disk / "outbox.sqlite", 1 << 30, 1.0, ["far"])
    said: list[Shed | Damage] = []

    def announce(loss: Shed | Damage) -> Event:
        said.append(loss)
        return event("line", 9999)

    outbox.losses.announce = announce
    try:
        assert outbox.store(event("defect", 0)).result(10)
        ballast = fill(disk)
        for number in range(1, 91):
            outbox.put(event("defect", number))
        for number in range(91, 151):
            outbox.put(event("summary", number))
        for number in range(151, 191):
            outbox.put(event("camera", number))
        assert not outbox.store(event("line", 191)).result(10)
        assert outbox.depth().result(10) == 101, "one on the disk, the others in memory"
        assert outbox.losses.in_all == {"summary": 60, "camera": 30}
        assert not said
        ballast.unlink()
        wait_until(lambda: len(stored(outbox)) > 1, 10, "it is written again")
        there = stored(outbox)
    finally:
        outbox.close()
    assert there[:91] == list(range(91)), "in their order"
    assert [n for n in there if 91 <= n < 191] == list(range(151, 161))
    assert there.count(9999) == 1
    shed = said[-1]
    assert isinstance(shed, Shed)
    assert shed.events == {"summary": 60, "camera": 30}


def stored(outbox: Outbox) -> list[int]:
    return [one.event.data["number"] for one in outbox.after("far", None, 999).result(10)]


def event(kind: str, number: int) -> Event:
    type_ = {"defect": "clearline.defect.v1", "camera": "clearline.camera.v1"}.get(kind)
    data = {"kind": kind, "number": number, "filling": "x" * 2000}
    return Event(str(number), type_ or "clearline.line.v1", "/s/l", "l", "l", 1, data)  # type: ignore[arg-type]
