"""Events read back from Kafka: the last ones, then each once, whatever the broker does.

The reader has an event loop of its own, so these tests are no coroutines.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from plant.kafka import KafkaBroker, event, sink_to

from adapters import kafka_reader
from adapters.errors import SinkError
from adapters.kafka_cluster import KafkaSettings
from adapters.kafka_reader import KafkaReader, KafkaReadError, Line, RecordError
from adapters.ports import Event
from adapters.sinks.cloud_event import structured
from adapters.tls import Tls

LIMIT_S = 45.0
WALL_NS = 1_785_312_000_000_000_000
names = (f"topic{number}" for number in count())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    properties = {"auto.create.topics.enable": "false"}
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), properties=properties) as broker:
        yield broker


@pytest.fixture
def topic(broker: KafkaBroker) -> str:
    name = next(names)
    asyncio.run(broker.create_topic(name, 3))
    return name


@pytest.fixture
def reader(broker: KafkaBroker, topic: str) -> Iterator[KafkaReader]:
    with closing(KafkaReader(settings(broker), [topic, f"{topic}-later"])) as reader:
        yield reader


def settings(broker: KafkaBroker, **more: Any) -> KafkaSettings:
    return KafkaSettings((broker.address,), "looks-on", **more)


def send(broker: KafkaBroker, events: list[Event]) -> None:
    """Until they are there."""

    async def sending() -> None:
        sink = sink_to(broker)
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await sink.send(events)
                    break
                except SinkError:
                    await asyncio.sleep(0.1)
        await sink.close()

    asyncio.run(sending())


def numbered(topic: str, first: int, end: int) -> list[Event]:
    """In order of time, of several cameras and so in several partitions."""
    return [
        event(topic, n, f"line3/cam{n % 5}", wall_ns=WALL_NS + n * 1_000_000)
        for n in range(first, end)
    ]


def numbers(lines: list[Line]) -> list[int]:
    return [line["data"]["sequence"] for line in lines if isinstance(line, dict)]


def anything(_: object) -> bool:
    return True


def read(
    reader: KafkaReader, until: Callable[[list[int]], bool], *, patient: bool = True
) -> list[int]:
    """Whatever goes wrong meanwhile, as a follower does; not so where it is not `patient`."""
    found: list[int] = []
    deadline = time.monotonic() + LIMIT_S
    while not until(found):
        assert time.monotonic() < deadline, found
        try:
            found += numbers(reader.read())
        except KafkaReadError:
            if not patient:
                raise
            time.sleep(0.1)
    return found


def test_an_event_is_what_it_was_when_it_was_sent(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    sent = numbered(topic, 0, 3)
    send(broker, sent)
    assert reader.last(10, anything) == [structured(one) for one in sent]


def test_the_last_ones_come_in_order_of_time_over_all_partitions_and_then_what_is_new(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    send(broker, numbered(topic, 0, 100))
    assert numbers(reader.last(7, anything)) == list(range(93, 100))
    send(broker, numbered(topic, 100, 140))
    found = read(reader, lambda found: len(found) >= 40)
    assert sorted(found) == list(range(100, 140))
    for camera in range(5):
        of_camera = [n for n in found if n % 5 == camera]
        assert of_camera == sorted(of_camera)


def test_what_is_wanted_is_found_far_back(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    send(broker, numbered(topic, 0, 1000))
    rare = reader.last(3, lambda event: event["data"]["sequence"] % 300 == 1)
    assert numbers(rare) == [301, 601, 901]


def test_none_of_the_last_ones_may_be_wanted(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    send(broker, numbered(topic, 0, 5))
    assert reader.last(0, anything) == []
    send(broker, numbered(topic, 5, 7))
    assert sorted(read(reader, lambda found: len(found) >= 2)) == [5, 6]


def test_a_topic_that_is_made_later_is_read_from_its_beginning(
    broker: KafkaBroker, reader: KafkaReader, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "LOOK_S", 0.2)
    assert reader.last(5, anything) == []
    later = f"{topic}-later"
    asyncio.run(broker.create_topic(later))
    send(broker, numbered(later, 0, 5) + numbered(topic, 5, 8))
    assert sorted(read(reader, lambda found: len(found) >= 8)) == list(range(8))


def test_without_any_topic_there_is_nothing_and_it_is_looked_for(
    broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "LOOK_S", 0.2)
    name = next(names)
    with closing(KafkaReader(settings(broker), [name])) as reader:
        assert reader.last(5, anything) == []
        assert reader.read() == []
        asyncio.run(broker.create_topic(name))
        send(broker, numbered(name, 0, 2))
        assert read(reader, lambda found: len(found) >= 2) == [0, 1]


def test_a_broker_that_starts_again_costs_no_event_and_doubles_none(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    send(broker, numbered(topic, 0, 50))
    assert numbers(reader.last(50, anything)) == list(range(50))

    def meanwhile() -> None:
        broker.restart()
        send(broker, numbered(topic, 50, 80))

    restarting = threading.Thread(target=meanwhile)
    restarting.start()
    found = read(reader, lambda found: len(found) >= 30)
    restarting.join()
    assert sorted(found) == list(range(50, 80))


def test_a_broker_that_is_frozen_is_an_error_and_then_it_goes_on(
    broker: KafkaBroker, reader: KafkaReader, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "LOOK_S", 0.2)
    monkeypatch.setattr(kafka_reader, "ANSWER_S", 1.0)
    send(broker, numbered(topic, 0, 5))
    assert numbers(reader.last(5, anything)) == list(range(5))
    with broker.frozen(), pytest.raises(KafkaReadError, match="does not answer within 1 s"):
        read(reader, bool, patient=False)
    send(broker, numbered(topic, 5, 9))
    assert sorted(read(reader, lambda found: len(found) >= 4)) == [5, 6, 7, 8]


def test_a_broker_that_is_not_there_is_an_error() -> None:
    with (
        closing(KafkaReader(KafkaSettings(("127.0.0.1:1",), "looks-on"), ["any"])) as reader,
        pytest.raises(KafkaReadError, match=r"127\.0\.0\.1:1"),
    ):
        reader.last(1, anything)


def test_nothing_is_committed(broker: KafkaBroker, reader: KafkaReader, topic: str) -> None:
    send(broker, numbered(topic, 0, 3))
    reader.last(3, anything)
    reader.read()
    assert not list(broker._folder.glob("records/__consumer_offsets-*"))


def test_a_record_that_is_no_event_is_named_and_those_behind_it_are_read(
    broker: KafkaBroker, reader: KafkaReader, topic: str
) -> None:
    reader.last(0, anything)

    async def write() -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.address) as producer:
            for value in (b"no json", b"[1]", None, b'{"sequence": 7}'):
                await producer.send_and_wait(topic, value, key=b"?", partition=1)

    asyncio.run(write())
    found: list[Line] = []
    while len(found) < 4:
        found += reader.read()
    assert all(isinstance(line, RecordError) for line in found[:3])
    assert [str(line).split(";")[0] for line in found[:3]] == [
        f"{topic}[1] = {offset} is no event" for offset in range(3)
    ]
    assert numbers(found) == [7]
    with closing(KafkaReader(settings(broker), [topic])) as another:
        last = another.last(9, lambda _: False)
    assert [str(line) for line in last] == [str(line) for line in found[:3]]


STRANGE = [
    (((), b'{"a":' * 50_000), "deep"),
    (((("a",),), b"{}"), "a header without a value"),
    (((("ce_id", "text"),), b"{}"), "a header that is no bytes"),
    ((None, b"{}"), "no headers"),
]


@pytest.mark.parametrize("headers_and_value", [s for s, _ in STRANGE], ids=[n for _, n in STRANGE])
def test_whatever_is_strange_in_a_record_it_is_no_event(headers_and_value: Any) -> None:
    headers, value = headers_and_value
    record = SimpleNamespace(topic="t", partition=1, offset=7, headers=headers, value=value)
    assert "t[1] = 7 is no event" in str(kafka_reader._line(record))


def test_a_header_that_says_nothing_costs_no_event() -> None:
    headers = (("trace", None), ("ce_id", b"5"))
    record = SimpleNamespace(topic="t", partition=1, offset=7, headers=headers, value=b"{}")
    line = kafka_reader._line(record)
    assert line == {"id": "5", "type": "t", "datacontenttype": "application/json", "data": {}}


def test_it_reads_over_tls_with_a_password_and_not_with_another(tmp_path: Path) -> None:
    users = {"looks-on": "a word that nobody guesses"}
    with KafkaBroker(tmp_path, tls=True, users=users) as broker:
        asyncio.run(broker.create_topic("secret"))
        right = settings(
            broker, tls=Tls(broker.ca), username="looks-on", password=users["looks-on"],
            mechanism="SCRAM-SHA-512",
        )  # fmt: skip
        with closing(KafkaReader(right, ["secret"])) as reader:
            assert reader.last(1, anything) == []
        wrong = replace(right, password="guessed")
        with closing(KafkaReader(wrong, ["secret"])) as reader, pytest.raises(KafkaReadError):
            reader.last(1, anything)
