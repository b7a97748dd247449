"""Kafka killed, frozen, away: every committed event arrives, in its key's order, and the line does
not notice."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from plant.daemon_process import memory, wait_until
from plant.event_line import arrived, check, line
from plant.kafka import KafkaBroker

from model.bundle import Bundle
from model.calibration import Calibration

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CalibrationFor = Callable[..., Calibration]
PARTITIONS = {"num.partitions": 3}
FROZEN_S = 10.0
AWAY_S = 60.0
ROUNDS = 10
COME_BACK_S = 60.0


async def test_a_broker_that_is_away_at_the_start_killed_and_frozen_loses_nothing(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: CalibrationFor
) -> None:
    (tmp_path / "kafka").mkdir()
    with KafkaBroker(tmp_path / "kafka", properties=PARTITIONS) as broker:
        broker.stop()
        with line(tmp_path, tiny_bundle, calibration_for(tiny_bundle), broker.address) as there:
            there.comes_up()
            assert there.waiting() > 0
            broker.start()
            wait_until(lambda: there.waiting() < 20, COME_BACK_S, "what waited has gone")
            broker.kill()
            there.inspects()
            broker.start()
            wait_until(lambda: there.waiting() < 20, COME_BACK_S, "and again")
            with broker.frozen():
                wait_until(lambda: there.waiting() > FROZEN_S * 30, 60, "ten seconds of events")
            wait_until(lambda: there.waiting() < 20, COME_BACK_S, "and once more")
            assert there.daemon.stop() == 0
        check(there, await arrived(broker))


@pytest.mark.endurance
async def test_away_for_a_minute_with_the_daemon_killed_meanwhile(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: CalibrationFor
) -> None:
    (tmp_path / "kafka").mkdir()
    with KafkaBroker(tmp_path / "kafka", properties=PARTITIONS) as broker:
        with line(tmp_path, tiny_bundle, calibration_for(tiny_bundle), broker.address) as there:
            there.comes_up()
            broker.kill()
            before = there.waiting()
            wait_until(lambda: there.waiting() > before + AWAY_S / 2 * 35, 90, "half a minute")
            there.dies()
            there.daemon.start()
            there.comes_up()
            held = memory(there.daemon.process.pid, "VmRSS")
            wait_until(lambda: there.waiting() > before + AWAY_S * 35, 90, "the other half")
            grown = memory(there.daemon.process.pid, "VmRSS") - held
            assert grown < 8 << 20, f"{grown} bytes more while events wait"
            broker.start()
            wait_until(lambda: there.waiting() < 20, COME_BACK_S, "what waited has gone")
            assert there.daemon.stop() == 0
        check(there, await arrived(broker))


@pytest.mark.endurance
async def test_ten_rounds_of_whatever_may_happen(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: CalibrationFor
) -> None:
    (tmp_path / "kafka").mkdir()
    dice = random.Random(5)
    with KafkaBroker(tmp_path / "kafka", properties=PARTITIONS) as broker:
        with line(tmp_path, tiny_bundle, calibration_for(tiny_bundle), broker.address) as there:
            there.comes_up()
            for _ in range(ROUNDS):
                more = there.waiting() + dice.randrange(20, 200)  # 1 to 5 s of events
                match dice.choice(["kill", "freeze", "daemon", "both"]):
                    case "kill":
                        broker.kill()
                        wait_until(lambda more=more: there.waiting() > more, 30, "events wait")
                        broker.start()
                    case "freeze":
                        with broker.frozen():
                            wait_until(lambda more=more: there.waiting() > more, 30, "events wait")
                    case "daemon":
                        there.dies()
                        there.daemon.start()
                        there.comes_up()
                    case "both":
                        broker.kill()
                        wait_until(lambda more=more: there.waiting() > more, 30, "events wait")
                        there.dies()
                        broker.start()
                        there.daemon.start()
                        there.comes_up()
            wait_until(lambda: there.waiting() < 20, COME_BACK_S, "what waited has gone")
            assert there.daemon.stop() == 0
        found = await arrived(broker)
        check(there, found)
        print(f"{len(found.by_id)} events, {found.duplicates} of them twice")
