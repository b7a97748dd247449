"""The road to the PLC over a real broker, as an independent client at its other end sees it."""

import asyncio
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from plant.broker import Broker
from plant.mqtt import BASE, Plc, road_to, running, states, until, verdict
from structlog.testing import capture_logs

import clearline
from adapters.ports import Beat, LineTold, MachineState, Outcome, PartTold, Reason

LINE = (
    b'{"run":true,"parts":2,"accepted":1,"rejected_defect":1,"rejected_silent":0,"last_msg_no":2}'
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.mark.parametrize(("order", "sign"), [("little", "<"), ("big", ">")])
async def test_a_verdict_arrives_as_the_contract_has_it(
    broker: Broker, order: str, sign: str
) -> None:
    road = road_to(broker, byte_order=order)
    async with Plc(broker) as plc, running(road):
        road.tell(verdict(8812034, Outcome.DEFECT, 250, "right", part=912345))
        await until(lambda: len(plc.heard) == 1)
    topic, _, retained, _ = plc.heard[0]
    assert (topic, retained) == (f"{BASE}/plc/verdict", False)
    fields = list(plc.verdicts(sign)[0])
    assert fields.pop(8) < 250  # the age
    assert fields == [17, 2, 2, 1, 1, 17, 8812034, 912345, 250, 500, 0, 0]


async def test_verdicts_come_in_order_and_are_counted_per_camera(broker: Broker) -> None:
    road = road_to(broker)
    async with Plc(broker) as plc, running(road):
        for n in range(300):
            road.tell(verdict(n, camera="left" if n % 3 else "right"))
        await until(lambda: len(plc.heard) == 300)
    assert [fields[6] for fields in plc.verdicts()] == list(range(300))
    for camera, count in ((1, 200), (2, 100)):
        numbers = [fields[4] for fields in plc.verdicts() if fields[1] == camera]
        assert numbers == list(range(1, count + 1))


@pytest.mark.parametrize("topic", ["plc/verdict", "plc/beat", "json/left"])
async def test_nothing_perishable_is_retained(broker: Broker, topic: str) -> None:
    road = road_to(broker, json=True)
    async with Plc(broker, f"{BASE}/#") as first, running(road):
        road.tell(verdict())
        road.beat(Beat(MachineState.READY, 1, 1, 1, 200, 1.0))
        await until(lambda: any(m[0].endswith(topic) for m in first.heard))
        async with Plc(broker, f"{BASE}/#") as second:
            await until(lambda: any(m[0].endswith("/state") for m in second.heard))
    assert [m[0] for m in second.heard if m[2]] == [f"{BASE}/state"]


async def test_a_beat_arrives_and_its_error_marks_the_verdicts(broker: Broker) -> None:
    road = road_to(broker)
    async with Plc(broker) as plc, running(road):
        for state, bits in ((MachineState.ERROR, 0b11), (MachineState.READY, 0b01)):
            plc.heard.clear()
            road.beat(Beat(state, 7, 0b11, 99, 200, 38.6))
            road.tell(replace(verdict(outcome=Outcome.UNINSPECTED), reason=Reason.WORKER_RESTART))
            await until(lambda: len(plc.heard) == 2)
            beat = struct.unpack("<BB2xI4xIIHH8x", plc.heard[0][1])
            assert beat == (18, state, 7, 0b11, 99, 200, 39)
            assert plc.verdicts()[0][3] == bits


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_json_comes_where_it_is_asked_for(broker: Broker, wanted: bool) -> None:
    road = road_to(broker, json=wanted)
    async with Plc(broker, f"{BASE}/#") as plc, running(road):
        road.tell(verdict(5, Outcome.DEFECT))
        road.tell(verdict(6, camera="right"))
        await until(lambda: len(plc.verdicts()) == 2)
        road.beat(Beat(MachineState.READY, 1, 1, 1, 200, 1.0))  # comes behind all of them
        await until(lambda: any(m[0].endswith("/beat") for m in plc.heard))
    said = {m[0]: json.loads(m[1]) for m in plc.heard if "/json/" in m[0]}
    assert set(said) == ({f"{BASE}/json/left", f"{BASE}/json/right"} if wanted else set())
    if wanted:
        left = said[f"{BASE}/json/left"]
        assert (left["verdict"], left["sequence"], left["msg_no"]) == ("defect", 5, 1)


async def test_an_ok_that_is_late_is_never_sent_as_ok(broker: Broker) -> None:
    road = road_to(broker)
    async with Plc(broker) as plc, running(road):
        road.tell(verdict(within_ms=0))
        road.tell(verdict(outcome=Outcome.DEFECT, within_ms=0))
        await until(lambda: len(plc.heard) == 2)
    assert [fields[2] for fields in plc.verdicts()] == [30, 2]
    assert road.turned_late == 1


async def test_the_oldest_give_way_and_the_next_message_says_so(broker: Broker) -> None:
    road = road_to(broker)
    async with Plc(broker) as plc, running(road):
        for n in range(1100):  # without giving the sender a turn
            road.tell(verdict(n))
        await until(lambda: len(plc.heard) == 1024)
    assert road.overruns == 76
    assert plc.msg_nos() == list(range(77, 1101))
    assert [fields[3] for fields in plc.verdicts()] == [0b101] + 1023 * [0b001]


async def test_the_state_is_retained_and_follows(broker: Broker) -> None:
    road = road_to(broker)
    road.state({"recipe": "foil-a"})
    async with Plc(broker, f"{BASE}/state") as plc, running(road):
        await until(lambda: {"online": True, "recipe": "foil-a"} in states(plc))
        road.state({"recipe": "foil-b"})
        await until(lambda: states(plc)[-1] == {"online": True, "recipe": "foil-b"})
        async with Plc(broker, f"{BASE}/state") as later:
            await until(lambda: len(later.heard) == 1)
    assert states(later) == [{"online": True, "recipe": "foil-b"}]
    assert later.heard[0][2]


async def test_what_the_plc_says_is_heard(broker: Broker) -> None:
    heard: list[object] = []
    async with Plc(broker) as plc, running(road_to(broker), heard.append):
        for part in range(100):
            plc.says("part", struct.pack("<II", part, 10 + part))
        plc.says("line", LINE)
        await until(lambda: len(heard) == 101)
    heard.remove(LineTold(True, "", 2, 1, 1, 0, (2,)))  # QoS 0 may overtake QoS 1
    assert heard == [PartTold(part, 10 + part) for part in range(100)]


async def test_malformed_messages_are_counted_and_logged_once_a_second(broker: Broker) -> None:
    heard: list[object] = []
    road = road_to(broker)
    with capture_logs() as logs:
        async with Plc(broker) as plc, running(road, heard.append):
            for _ in range(20):
                plc.says("part", b"short")
                plc.says("line", b"{}")
            plc.says("part", struct.pack("<II", 1, 2))
            await until(lambda: len(heard) == 1)
    assert road.malformed == 40
    refusals = [line for line in logs if line["event"] == "plc message refused"]
    assert len(refusals) == 1
    assert "short" not in str(refusals)  # what anyone may send does not fill our log


async def test_a_listener_that_fails_costs_no_message(broker: Broker) -> None:
    heard: list[object] = []

    def hear(told: object) -> None:
        heard.append(told)
        if len(heard) == 1:
            raise RuntimeError("a fault of ours")

    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))
    async with Plc(broker) as plc, running(road_to(broker), hear):
        for part in range(3):
            plc.says("part", struct.pack("<II", part, 0))
        await until(lambda: len(heard) == 3)
    assert heard == [PartTold(part, 0) for part in range(3)]
    assert [str(fault["exception"]) for fault in faults] == ["a fault of ours"]


async def test_a_clean_stop_says_offline_once_and_leaves_no_will(broker: Broker) -> None:
    async with Plc(broker, f"{BASE}/state") as plc:
        async with running(road_to(broker)):
            await until(lambda: {"online": True} in states(plc))
        await until(lambda: not states(plc)[-1]["online"])
        async with Plc(broker, f"{BASE}/state") as later:
            await until(lambda: len(later.heard) == 1)
        said = [json.loads(payload) for _, payload, retained, _ in plc.heard if not retained]
    assert said == [{"online": True}, {"online": False}]
    assert states(later) == [{"online": False}]


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(clearline.UsageError, match=r"the extra clearline\[mqtt\]"):
        road_to(1)


async def test_a_part_has_the_name_that_the_plc_gave_it_and_none_where_it_gave_none(
    broker: Broker,
) -> None:
    """A camera counts triggers; the PLC may number its parts otherwise, and then says how."""
    road, heard = road_to(broker, parts_from_plc=True), []
    async with Plc(broker) as plc, running(road, heard.append):
        road.tell(verdict(0, part=40))
        await until(lambda: len(plc.heard) == 1)
        plc.says("part", struct.pack("<II", 7001, 41))
        await until(lambda: len(heard) == 1)
        for sequence, trigger in ((1, 41), (2, 42)):
            road.tell(verdict(sequence, part=trigger))
        await until(lambda: len(plc.heard) == 3)
    assert [fields[7] for fields in plc.verdicts()] == [0, 7001, 0]


async def test_a_frame_that_was_judged_carries_no_error_of_a_moment_ago(broker: Broker) -> None:
    """The next worker serves already; until the next beat its oks would be rejected for nothing."""
    road = road_to(broker)
    async with Plc(broker) as plc, running(road):
        road.beat(Beat(MachineState.ERROR, 7, 1, 99, 200, 38.6))
        road.tell(verdict())
        await until(lambda: len(plc.heard) == 2)
    assert plc.verdicts()[0][3] == 0b01


async def test_what_was_told_before_a_clean_stop_is_still_sent(broker: Broker) -> None:
    """The last parts of a shift: who is `shutdown` should hear it."""
    road = road_to(broker)
    async with Plc(broker) as plc:
        async with running(road):
            for n in range(5):
                road.tell(verdict(n))
        await until(lambda: len(plc.heard) == 5)
    assert road.unsent == 0
