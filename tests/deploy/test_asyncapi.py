"""The described contract: valid by AsyncAPI's own rules, and true of what we send and hear."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from plant import schemas
from plant.broker import Broker
from plant.mqtt import BASE, Plc, road_to, running, until, verdict

from adapters.errors import MessageError
from adapters.ports import (
    Beat,
    Event,
    Exposure,
    FrameId,
    MachineState,
    Outcome,
    PartTold,
    Reason,
    Verdict,
)
from adapters.sinks import plc_messages

DOCUMENT = schemas.document()
MESSAGES, SCHEMAS = DOCUMENT["components"]["messages"], DOCUMENT["components"]["schemas"]
CHECK = Path(schemas.__file__).parent / "asyncapi/check.cjs"
NODE = Path(sys.prefix) / "bin/node"
NODE_MODULES = Path(sys.prefix) / "node/node_modules"
"""Where deploy/environment.sh puts what asyncapi/package-lock.json names."""
LINE = {
    "run": True, "recipe": "foil-a", "parts": 12, "accepted": 10, "rejected_defect": 1,
    "rejected_silent": 1, "last_msg_no": [12, 12],
}  # fmt: skip
SIZES = {"u8": 1, "u16": 2, "u32": 4}


def faults(*files: Path) -> list[list[str]]:
    """Of each, by the rules of AsyncAPI's makers."""
    ended = subprocess.run(
        [NODE, CHECK, *files], env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


BREAKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a version that is none": (lambda d: d.update(asyncapi="3.9.9"), "asyncapi"),
    "an operation on an unknown channel": (
        lambda d: d["operations"]["sendBeat"].update(channel={"$ref": "#/channels/none"}),
        "channels/none",
    ),
    "an operation that neither sends nor receives": (
        lambda d: d["operations"]["sendBeat"].update(action="publish"), "action",
    ),
    "an operation with a message of another channel": (
        lambda d: d["operations"]["sendBeat"].update(
            messages=[{"$ref": "#/channels/verdict/messages/verdict"}]
        ),
        "messages",
    ),
    "a parameter that is not described": (
        lambda d: d["channels"]["verdictJson"]["parameters"].pop("camera"), "camera",
    ),
    "a channel on an unknown server": (
        lambda d: d["channels"]["beat"].update(servers=[{"$ref": "#/servers/none"}]), "server",
    ),
    "a payload whose file is missing": (
        lambda d: d["components"]["messages"]["line"].update(payload={"$ref": "./none.json"}),
        "none.json",
    ),
    "a QoS that MQTT has not": (
        lambda d: d["operations"]["sendBeat"]["bindings"]["mqtt"].update(qos=3), "qos",
    ),
}  # fmt: skip


def test_the_document_is_valid_and_all_it_refers_to_is_there() -> None:
    assert faults(schemas.DEPLOY / "asyncapi.yaml") == [[]]
    assert DOCUMENT["asyncapi"] == "3.0.0"


def test_a_broken_document_is_refused(tmp_path: Path) -> None:
    """All of them in one go: what takes time is to load the rules."""
    shutil.copytree(schemas.DEPLOY / "schemas", tmp_path / "schemas")
    files = []
    for number, (break_, _) in enumerate(BREAKS.values()):
        document = yaml.safe_load((schemas.DEPLOY / "asyncapi.yaml").read_text())
        break_(document)
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(document))
    for (name, (_, what)), found in zip(BREAKS.items(), faults(*files), strict=True):
        assert any(what in fault for fault in found), (name, found)


def operations() -> dict[str, tuple[str, dict[str, Any]]]:
    """By their addresses at a line's camera `left`: action, and what MQTT says of it."""
    found = {}
    for operation in DOCUMENT["operations"].values():
        channel = DOCUMENT["channels"][operation["channel"]["$ref"].split("/")[-1]]
        address = channel["address"].format(base=BASE, camera="left")
        found[address] = operation["action"], operation.get("bindings", {}).get("mqtt", {})
    assert len(found) == len(DOCUMENT["channels"])
    return found


def test_kafka_topics_and_keys_are_those_of_the_events() -> None:
    types = get_args(get_type_hints(Event)["type"])
    sent = {address: action for address, (action, mqtt) in operations().items() if not mqtt}
    assert sent == dict.fromkeys(types, "send")
    assert set(types) == set(schemas.TYPES)
    for type_ in types:
        name = type_.split(".")[1]
        assert DOCUMENT["channels"][name]["bindings"]["kafka"]["topic"] == type_
        assert MESSAGES[name]["payload"] == {"$ref": f"./schemas/{type_}.json"}
        key = MESSAGES[name]["bindings"]["kafka"]["key"]["$ref"].split("/")[-1]
        assert re.match(SCHEMAS[key]["pattern"], "line3" if name == "line" else "line3/cam2")


def test_the_examples_are_as_described() -> None:
    """The rules of AsyncAPI's makers do not ask for it."""
    for message in ("state", "fromLine"):
        for example in MESSAGES[message]["examples"]:
            schemas.described(f"/components/schemas/{message}").validate(example["payload"])


async def test_the_mqtt_topics_are_those_of_the_road(tmp_path: Path) -> None:
    mqtt = {address: how for address, how in operations().items() if how[1]}
    sent = {topic: says for topic, (action, says) in mqtt.items() if action == "send"}
    road_says: dict[str, tuple[int, bytes]] = {}
    told: list[Any] = []
    with Broker(tmp_path) as broker:
        async with Plc(broker, f"{BASE}/#") as plc, Plc(broker, "none") as late:
            plc.client.on_message = lambda client, data, message: road_says.update(
                {message.topic: (message.qos, message.payload)}
            )
            road = road_to(broker, json=True)
            async with running(road, told.append):
                road.tell(verdict())
                road.beat(Beat(MachineState.READY, 1, 1, 1, 200, 1.0))
                await until(lambda: road_says.keys() >= sent.keys())
                late.client.subscribe(f"{BASE}/#")
                await until(lambda: bool(late.heard))
                plc.says("part", bytes(8))
                plc.says("line", json.dumps(LINE).encode())
                await until(lambda: len(told) == 2)
            will = DOCUMENT["servers"]["cell"]["bindings"]["mqtt"]["lastWill"]
            await until(lambda: road_says[f"{BASE}/state"][1] == will["message"].encode())
    assert {topic: qos for topic, (qos, _) in road_says.items() if "/from/" not in topic} == {
        topic: says["qos"] for topic, says in sent.items()
    }
    assert {m[0] for m in late.heard if m[2]} == {t for t, says in sent.items() if says["retain"]}
    assert {t for t, (action, _) in mqtt.items() if action == "receive"} == {
        topic for topic in road_says if "/from/" in topic
    }


VALUES = {
    "camera": 3, "result": 31, "bits": 5, "msg_no": 0x01020304, "epoch": 0x05060708,
    "inspection_id": 0x090A0B0C, "part_id": 0x0D0E0F10, "age_ms": 0x1112, "deadline_ms": 0x1314,
    "score": 1250, "lane_mask": 0, "encoder": 0, "state": 8, "counter": 0x15161718,
    "cameras_ok": 0x191A1B1C, "verdicts_sent": 0x1D1E1F20, "period_ms": 0x2122, "p99_ms": 0x2324,
    "trigger_count": 0x25262728,
}  # fmt: skip
ORDERS = pytest.mark.parametrize("order", get_args(plc_messages.ByteOrder))


def by_the_table(message: str, order: str) -> bytes:
    """VALUES where the document says that they stand, and zeros between them."""
    layout = MESSAGES[message]["x-layout"]
    payload = bytearray(layout["bytes"])
    for field in layout["fields"]:
        value = field["value"] if "value" in field else VALUES[field["name"]]
        size = SIZES[field["type"]]
        assert field["offset"] % size == 0, "naturally aligned"
        payload[field["offset"] : field["offset"] + size] = value.to_bytes(size, order)
    return bytes(payload)


@ORDERS
def test_a_verdict_is_packed_as_the_table_says(order: plc_messages.ByteOrder) -> None:
    now_ns = VALUES["age_ms"] * 1_000_000
    exposure = Exposure(
        FrameId("line3", "left", VALUES["epoch"], VALUES["inspection_id"]), 0, 0,
        VALUES["deadline_ms"] * 1_000_000, VALUES["part_id"],
    )  # fmt: skip
    said = Verdict(exposure, Outcome.UNINSPECTED, Reason.OVERLOAD, 1.25, 1.0, 0)
    packed = plc_messages.verdict(
        said, camera=3, msg_no=VALUES["msg_no"], flags=5, now_ns=now_ns, order=order
    )
    assert packed == by_the_table("verdict", order)


@ORDERS
def test_a_beat_is_packed_as_the_table_says(order: plc_messages.ByteOrder) -> None:
    names = ("counter", "cameras_ok", "verdicts_sent", "period_ms", "p99_ms")
    said = Beat(MachineState.CONTINUOUS_EXECUTION, *(VALUES[name] for name in names))
    assert plc_messages.beat(said, order) == by_the_table("beat", order)


@ORDERS
def test_a_part_is_read_as_the_table_says(order: plc_messages.ByteOrder) -> None:
    told = plc_messages.part_told(by_the_table("fromPart", order), order)
    assert told == PartTold(VALUES["part_id"], VALUES["trigger_count"])


@pytest.mark.parametrize("message", ["verdict", "beat", "fromPart"])
def test_what_people_read_is_what_programs_read(message: str) -> None:
    layout, text = MESSAGES[message]["x-layout"], MESSAGES[message]["description"]
    rows = re.findall(r"^\| (\d+) \| (u\d+) \| (\w+)(.*) \|$", text, re.MULTILINE)
    fields = layout["fields"]
    assert [(int(at), type_) for at, type_, *_ in rows] == [
        (f["offset"], f["type"]) for f in fields
    ]
    for (*_, first, rest), field in zip(rows, fields, strict=True):
        assert f"{first}{rest}".replace(" ", "_").startswith(field["name"])
        assert str(field.get("value", "")) in rest
    assert text.startswith(f"{layout['bytes']} bytes")


def test_the_codes_are_the_daemons() -> None:
    layout = MESSAGES["verdict"]["x-layout"]
    codes = {reason.value: code for reason, code in plc_messages.UNINSPECTED.items()}
    assert layout["results"] == {"ok": 1, "defect": 2} | codes
    for name, code in codes.items():
        assert f"{code} {name}" in " ".join(MESSAGES["verdict"]["description"].split())
    assert layout["bits"] == {
        name: flag.bit_length() - 1
        for name, flag in (
            ("online", plc_messages.ONLINE), ("error", plc_messages.ERROR),
            ("results_buffer_overrun", plc_messages.OVERRUN),
        )
    } | {"test": 3}  # fmt: skip
    states = {state.name.lower(): state.value for state in MachineState}
    assert MESSAGES["beat"]["x-layout"]["states"] == states


scores = st.none() | st.floats(min_value=0)


@given(st.sampled_from([None, *Reason]), scores, scores)
def test_the_verdict_as_json_is_as_described(
    reason: Reason | None, score: float | None, threshold: float | None
) -> None:
    outcome = Outcome.OK if reason is None else Outcome.UNINSPECTED
    exposure = Exposure(FrameId("line3", "left", 17, 5), 0, 0, 10**8, 0)
    said = Verdict(exposure, outcome, reason, score, threshold, 0)
    text = plc_messages.verdict_json(said, msg_no=1, now_ns=10**7)
    schemas.described("/components/schemas/verdictJson").validate(json.loads(text))


line_values = st.none() | st.booleans() | st.integers() | st.floats(-2, 2) | st.text(max_size=3)


@given(st.dictionaries(st.sampled_from(list(LINE)), line_values | st.lists(line_values)))
def test_what_the_plc_may_say_is_what_we_hear(change: dict[str, Any]) -> None:
    said = LINE | change
    try:
        plc_messages.line_told(json.dumps(said).encode())
    except MessageError:
        assert not fits_line(said)
    else:
        assert fits_line(said)


@pytest.mark.parametrize("field", LINE)
def test_without_a_field_of_the_line_it_is_as_well(field: str) -> None:
    said = {name: value for name, value in LINE.items() if name != field}
    assert fits_line(said) == (field == "recipe")


def fits_line(said: Any) -> bool:
    return schemas.described("/components/schemas/fromLine").is_valid(said)


def test_the_lock_of_the_rules_has_hashes_and_no_address() -> None:
    text = (CHECK.parent / "package-lock.json").read_text()
    assert "://" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in package for path, package in packages.items() if path)
    asked = json.loads((CHECK.parent / "package.json").read_text())["dependencies"]
    assert packages[""]["dependencies"] == asked
