"""The example consumer: one row for each event, whatever is killed, sent twice or moved."""

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from plant.events import TOPICS, defect, summary, uninspected
from plant.kafka import KafkaBroker, sink_to
from plant.postgres import Postgres

from adapters.errors import SinkError
from adapters.ports import Event
from adapters.sinks.kafka import KafkaSink
from adapters.tls import Tls

pytestmark = pytest.mark.endurance

CONSUME = Path(__file__).parents[2] / "deploy/kafka/consume.py"
PARTITIONS = 4
LIMIT_S = 45.0
"""A group waits 10 s for a member that was killed."""
KILLED_BEFORE_IT_COMMITS = f"""
import os, runpy, signal, sys
from aiokafka import AIOKafkaConsumer
async def commit(self, offsets): os.kill(os.getpid(), signal.SIGKILL)
AIOKafkaConsumer.commit = commit
runpy.run_path({str(CONSUME)!r}, run_name="__main__")
"""
Rows = list[tuple[Any, ...]]
Start = Callable[..., "Consumer"]


class Consumer:
    """The script as a process of its own."""

    def __init__(self, arguments: Sequence[str], output: Path, program: Sequence[str]) -> None:
        self._output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments], stdout=file, stderr=file
            )

    def told(self) -> str:
        return self._output.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Every consumer reads all there is, of other tests' lines as well."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        for topic in TOPICS:
            asyncio.run(broker.create_topic(topic, PARTITIONS))
        yield broker


@pytest.fixture
async def sink(broker: KafkaBroker) -> AsyncIterator[KafkaSink]:
    sink = sink_to(broker)
    yield sink
    await sink.close()


@pytest.fixture
def line(tmp_path: Path) -> str:
    """A test's own, by which it knows its events."""
    return f"line-{tmp_path.name}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "events.sqlite")
        return
    url = request.getfixturevalue("postgres").url
    yield url
    with psycopg.connect(url) as db:
        db.execute("DROP TABLE IF EXISTS events")


@pytest.fixture
def consumer(broker: KafkaBroker, database: str, tmp_path: Path) -> Iterator[Start]:
    started: list[Consumer] = []

    def start(program: Sequence[str] = (str(CONSUME),)) -> Consumer:
        output = tmp_path / f"consumer-{len(started)}.txt"
        group = f"group-{tmp_path.name}"
        arguments = [broker.address, "--database", database, "--group", group]
        started.append(Consumer(arguments, output, program))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def rows(database: str, query: str) -> Rows:
    """None of them while there is no table."""
    try:
        if database.startswith("postgres"):
            with psycopg.connect(database) as db:
                return db.execute(query).fetchall()
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
            return file.execute(query).fetchall()
    except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):
        return []


async def wait_for(true: Callable[[], bool], one: Consumer) -> None:
    """While it runs."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, one.told()
        assert one.process.poll() is None, one.told()
        await asyncio.sleep(0.05)


def ids(database: str, line: str) -> list[str]:
    return [id_ for (id_,) in rows(database, f"SELECT id FROM events WHERE line = '{line}'")]


def stored(database: str, sent: Sequence[Event]) -> Callable[[], bool]:
    line = sent[0].data["line"]
    return lambda: {event.id for event in sent} <= set(ids(database, line))


def counts(one: Consumer) -> tuple[int, int]:
    """Stored and duplicates, as it said last."""
    found = re.findall(r"(\d+) stored, (\d+) duplicates", one.told())
    return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)


async def produced(broker: KafkaBroker) -> tuple[int, int]:
    """Events and copies of them, in all topics."""
    keys = [
        (dict(record.headers)["ce_source"], dict(record.headers)["ce_id"])
        for topic in TOPICS
        for record in await broker.read_all(topic)
        if record.headers
    ]
    return len(set(keys)), len(keys) - len(set(keys))


def numbered(line: str, count: int, first: int = 0) -> list[Event]:
    """Of several cameras, so that they lie in several partitions."""
    return [defect(number, f"camera{number % 7}", line) for number in range(first, first + count)]


async def test_a_row_has_what_dashboards_need_and_all_of_the_event(
    sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    sent = [defect(5, line=line), uninspected(7, line=line), summary(line=line)]
    await sink.send(sent)
    await wait_for(stored(database, sent), consumer())
    of_line = f"FROM events WHERE line = '{line}' ORDER BY type"
    names = "type, camera, kind, part_id, score_ratio, late, max_region_area_mm2, reason, count"
    assert rows(database, f"SELECT {names} {of_line}") == [
        ("clearline.camera.v1", "left", "uninspected", None, None, None, None, "late", 3),
        ("clearline.defect.v1", "left", None, 912345, 1.375, False, 4.1, None, None),
        ("clearline.line.v1", None, "summary", None, None, None, None, None, None),
    ]
    whole = [json.loads(data) for (data,) in rows(database, f"SELECT data {of_line}")]
    assert whole == [sent[1].data, sent[0].data, sent[2].data]


async def test_what_is_produced_twice_is_one_row_and_is_counted(
    broker: KafkaBroker, sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    sent = numbered(line, 60)
    await sink.send(sent)
    await sink.send(sent)
    expected = await produced(broker)
    one = consumer()
    await wait_for(lambda: counts(one) == expected, one)
    assert sorted(ids(database, line)) == sorted(event.id for event in sent)


async def test_killed_between_the_two_commits_it_loses_nothing_and_doubles_nothing(
    broker: KafkaBroker, sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    """The database has them, Kafka does not know it: they come again and are recognised."""
    sent = numbered(line, 60)
    await sink.send(sent)
    killed = consumer(program=("-c", KILLED_BEFORE_IT_COMMITS))
    assert await asyncio.to_thread(killed.process.wait, LIMIT_S) == -signal.SIGKILL
    (before,) = rows(database, "SELECT count(*) FROM events")
    assert before[0] > 0
    one = consumer()
    await wait_for(stored(database, sent), one)
    whole, copies = await produced(broker)
    await wait_for(lambda: counts(one) == (whole - before[0], copies + before[0]), one)
    assert sorted(ids(database, line)) == sorted(event.id for event in sent)


async def test_it_goes_on_when_the_broker_is_back(
    broker: KafkaBroker, sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    before, after = numbered(line, 30), numbered(line, 30, first=30)
    await sink.send(before)
    one = consumer()
    await wait_for(stored(database, before), one)
    await asyncio.to_thread(broker.restart)
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await sink.send(after)
                break
            except SinkError:
                await asyncio.sleep(0.1)
    await wait_for(stored(database, after), one)
    assert sorted(ids(database, line)) == sorted(event.id for event in before + after)
    assert one.end() == 0


async def test_copies_share_the_partitions_and_take_over_from_each_other(
    sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    first = consumer()
    sent = numbered(line, 30)
    await sink.send(sent)
    await wait_for(stored(database, sent), first)
    second, seen = consumer(), len(first.told())
    while not counts(second)[0]:  # they share by now
        sent += (more := numbered(line, 30, first=len(sent)))
        await sink.send(more)
        await wait_for(stored(database, sent), first)
    await wait_for(lambda: len(first.told()) > seen, first)
    assert first.end() == 0
    sent += (more := numbered(line, 30, first=len(sent)))
    await sink.send(more)
    await wait_for(stored(database, sent), second)
    assert sorted(ids(database, line)) == sorted(event.id for event in sent)


async def test_started_again_it_goes_on_where_it_was(
    sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    before, after = numbered(line, 30), numbered(line, 30, first=30)
    await sink.send(before)
    one = consumer()
    await wait_for(stored(database, before), one)
    assert one.end() == 0
    await sink.send(after)
    two = consumer()
    await wait_for(stored(database, after), two)
    assert counts(two) == (30, 0)


async def test_what_is_no_event_is_named_and_passed_over(
    broker: KafkaBroker, sink: KafkaSink, database: str, consumer: Start, line: str
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.address) as producer:
        for value in (b"no json", b"[1]", None):
            await producer.send_and_wait(TOPICS[1], value, key=b"?", partition=0)
    sent = [uninspected(9, line=line)]
    await sink.send(sent)
    one = consumer()
    await wait_for(stored(database, sent), one)
    await wait_for(lambda: one.told().count(f"passed over {TOPICS[1]}[0] offset") >= 3, one)


async def test_it_reads_over_tls_with_a_password(tmp_path: Path) -> None:
    folder, secret, database = tmp_path / "kafka", tmp_path / "secret", tmp_path / "events.sqlite"
    folder.mkdir()
    secret.write_text("a word that nobody guesses\n")
    with KafkaBroker(folder, tls=True, users={"plant": "a word that nobody guesses"}) as broker:
        for topic in TOPICS:
            await broker.create_topic(topic)
        who = {"username": "plant", "password": "a word that nobody guesses"}
        sink = sink_to(broker, tls=Tls(broker.ca), **who)
        sent = numbered("secret", 5)
        await sink.send(sent)
        await sink.close()
        arguments = [
            broker.address, "--database", str(database), "--username", "plant",
            "--password-file", str(secret), "--mechanism", "PLAIN", "--ca-file", str(broker.ca),
        ]  # fmt: skip
        one = Consumer(arguments, tmp_path / "told.txt", [str(CONSUME)])
        try:
            await wait_for(stored(str(database), sent), one)
        finally:
            one.process.kill()
            one.process.wait()
