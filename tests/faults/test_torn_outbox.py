"""Power cuts that tear the outbox: the line starts again each time, and what is missing is said."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from plant.daemon_process import wait_until
from plant.event_line import arrived, line
from plant.kafka import KafkaBroker

from model.bundle import Bundle
from model.calibration import Calibration

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(300)]

CalibrationFor = Callable[..., Calibration]
ROUNDS = 5


async def test_a_line_whose_outbox_is_torn_starts_and_says_what_is_missing(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: CalibrationFor
) -> None:
    dice = random.Random(8)
    (tmp_path / "kafka").mkdir()
    with KafkaBroker(tmp_path / "kafka") as broker:
        broker.stop()
        with line(tmp_path, tiny_bundle, calibration_for(tiny_bundle), broker.address) as there:
            there.comes_up()
            for _ in range(ROUNDS):
                there.inspects()
                there.dies()
                tear(tmp_path / "state", dice)
                there.daemon.start()
                there.comes_up()
            broker.start()
            wait_until(lambda: there.waiting() < 20, 60, "what is left has gone")
            assert there.daemon.stop() == 0
        found = await arrived(broker)
        committed = there.committed()
    missing = {(e["source"], e["id"]) for e in committed} - found.by_id.keys()
    told = [e["data"] for e in committed if e["data"].get("kind") == "outbox_replaced"]
    lost = [one["lost"] for one in told]
    assert told, "no round tore anything"
    assert None in lost or len(missing) <= sum(lost), (len(missing), lost)
    for one in told:
        assert one["file"] is None or (tmp_path / "state" / one["file"]).exists()


def tear(state: Path, dice: random.Random) -> None:
    """The newest pages, or the end altogether, of the log or of the file itself."""
    files = [f for f in (state / "outbox.sqlite-wal", state / "outbox.sqlite") if f.stat().st_size]
    path = dice.choice(files)
    content = bytearray(path.read_bytes())
    place = len(content) - dice.randrange(1, min(len(content), 64 << 10))
    if dice.random() < 0.5:
        del content[place:]
    else:
        content[place : place + 8192] = dice.randbytes(len(content[place : place + 8192]))
    path.write_bytes(content)
