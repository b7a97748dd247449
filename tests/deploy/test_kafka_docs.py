"""What deploy/kafka tells the plant's people is true of what we ship and of a real Kafka."""

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.protocol.admin import CreateAclsRequest
from plant.events import TOPICS, defect, of_line, summary
from plant.kafka import KafkaBroker, sink_to
from plant.postgres import Postgres
from plant.schemas import schema

from adapters.kafka_cluster import KafkaSettings
from adapters.kafka_reader import KafkaReader, KafkaReadError
from daemon.config import Configuration

FOLDER = Path(__file__).parents[2] / "deploy/kafka"
README = (FOLDER / "README.md").read_text()
ACL = re.compile(
    r"--allow-principal User:(\S+) \\\n +--operation (\S+) --(\S+) (\S+) "
    r"--resource-pattern-type prefixed"
)
PASSWORDS = {"line3": "one", "dashboard": "two"}
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Where everybody may do what the README's commands say, and nothing else."""
    properties = {"authorizer.class.name": AUTHORIZER}
    folder = tmp_path_factory.mktemp("kafka")
    with KafkaBroker(folder, users=PASSWORDS, properties=properties) as broker:
        asyncio.run(_prepare(broker))
        yield broker


async def _prepare(broker: KafkaBroker) -> None:
    for topic in TOPICS:
        await broker.create_topic(topic)
    # The protocol's numbers.
    resources, operations, prefixed, allow = {"topic": 2, "group": 3}, {"Read": 3, "Write": 4}, 4, 3
    async with broker._admin() as admin:
        for user, operation, resource, name in ACL.findall(README):
            told = await admin._send_request(
                CreateAclsRequest(
                    resources[resource], name, prefixed, f"User:{user}", "*",
                    operations[operation], allow,
                )
            )  # fmt: skip
            assert told.creation_responses[0][0] == 0, told


def reads(broker: KafkaBroker, user: str) -> list[Any]:
    settings = KafkaSettings((broker.address,), "docs", username=user, password=PASSWORDS[user])
    with closing(KafkaReader(settings, TOPICS)) as reader:
        return reader.last(5, lambda _: True)


async def writes(broker: KafkaBroker, user: str) -> list[Any]:
    sink = sink_to(broker, username=user, password=PASSWORDS[user])
    try:
        return list(await sink.send([defect(1), summary()]))
    finally:
        await sink.close()


def test_the_rights_it_names_are_enough_and_not_too_many(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    assert asyncio.run(writes(broker, "line3")) == []
    assert len(asyncio.run(writes(broker, "dashboard"))) == 2  # refused
    assert len(reads(broker, "dashboard")) == 2
    with pytest.raises(KafkaReadError, match="Authorization"):
        reads(broker, "line3")
    secret = tmp_path / "secret"
    secret.write_text(PASSWORDS["dashboard"])
    arguments = [
        FOLDER / "consume.py", broker.address, "--database", tmp_path / "events.sqlite",
        "--username", "dashboard", "--password-file", secret,
    ]  # fmt: skip
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline()]
            while b"2 stored, 0 duplicates" not in said[-1]:
                assert said[-1], said
                said.append(process.stdout.readline())
        finally:
            process.kill()


def test_its_topics_are_ours() -> None:
    table = re.findall(r"^\| `(clearline\.\S+)` \|", README, re.M)
    assert table == list(TOPICS)
    assert all(f" {topic}" in blocks("sh")[0] for topic in TOPICS)


def test_its_settings_are_taken_by_the_configuration() -> None:
    said = tomllib.loads(blocks("toml")[0])
    line = {
        "cameras": {"left": {"url": "simulated:woven"}},
        "recipes": {"default": {"bundle": "x"}},
    }
    kafka = Configuration(**line, **said).kafka
    assert set(said["kafka"]) == set(type(kafka).model_fields)


def test_its_command_for_the_consumer_is_understood() -> None:
    """Its options are known: what is wrong is the one that was added."""
    (command,) = re.findall(r"python consume\.py (.*?)\n\n", README, re.S)
    arguments = command.replace("\\\n", "").split()
    ended = subprocess.run(
        [sys.executable, FOLDER / "consume.py", *arguments, "--no-option-at-all"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith("unrecognized arguments: --no-option-at-all")


def test_its_query_finds_the_defects_of_a_thousand_frames() -> None:
    """On the example consumer's own table."""
    sys.path.insert(0, str(FOLDER))
    try:
        import consume
    finally:
        sys.path.remove(str(FOLDER))
    counts = {"uninspected": {}, "in_flight": 0}
    with Postgres() as postgres:
        db, insert = consume.open_database(postgres.url)
        db.execute(consume.TABLE)
        for received, found in ((1000, 3), (3000, 7)):
            left = {"received": received, "ok": received - found, "defect": found, **counts}
            event = of_line("summary", cameras={"left": left})
            flat = [event.data.get(name) for name in consume.FLAT]
            row = (event.source, event.id, event.type, *flat, json.dumps(event.data))
            assert consume.store(db, insert, [row]) == 1
        db.close()
        (query,) = [block for block in blocks("sql") if "json_each" in block]
        with psycopg.connect(postgres.url) as db:
            assert db.execute(query).fetchall() == [("line3", "left", 2)]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*-connect.json")), ids=lambda f: f.name)
def test_a_connector_reads_our_topics_as_plain_json(file: Path) -> None:
    config = json.loads(file.read_text())["config"]
    assert set(config["topics"].split(",")) <= set(TOPICS)
    assert config["value.converter"] == "org.apache.kafka.connect.json.JsonConverter"
    assert config["value.converter.schemas.enable"] == "false"
    assert config["key.converter"] == "org.apache.kafka.connect.storage.StringConverter"


def test_clickhouse_s_tables_have_fields_that_events_have() -> None:
    known = {name for topic in TOPICS for name in fields(schema(topic))}
    view = (FOLDER / "clickhouse.sql").read_text()
    asked = set(re.findall(r"JSONExtract\w*\(data, '(\w+)'", view))
    assert asked <= known
    assert all(f"'{topic}" in view or f",{topic}" in view for topic in TOPICS)
    table = (FOLDER / "clickhouse-defects.sql").read_text()
    columns = set(re.findall(r"^    (\w+) ", table, re.M)) - {"time"}
    assert columns <= set(schema(TOPICS[0])["properties"])
    connector = json.loads((FOLDER / "clickhouse-connect.json").read_text())["config"]
    name = connector["topic2TableMap"].removeprefix(f"{TOPICS[0]}=")
    assert f"CREATE TABLE {name}\n" in table


def fields(part: Any) -> Iterator[str]:
    """Of a schema and all that it is made of."""
    if isinstance(part, dict):
        yield from part.get("properties", {})
        for inner in part.values():
            yield from fields(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from fields(inner)
