"""The road to the plant: what a record is, in which order they stand, and what is refused."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from plant.kafka import KafkaBroker, event, numbers, sink_to

import clearline
from adapters.errors import SinkError
from adapters.sinks import kafka, kafka_link
from adapters.sinks.kafka import KafkaSink

WALL_NS = 1_785_312_000_123_456_789
STRETCH_S = 0.001
LONGEST_STRETCH_S = 0.004


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    properties = {"auto.create.topics.enable": "false"}
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), properties=properties) as broker:
        yield broker


@pytest.fixture
async def sink(broker: KafkaBroker) -> AsyncIterator[KafkaSink]:
    sink = sink_to(broker)
    yield sink
    await sink.close()


async def test_a_record_is_a_cloud_event_in_binary_mode(
    broker: KafkaBroker, sink: KafkaSink
) -> None:
    await broker.create_topic("record")
    sent = event("record", 5, "line3/cam2", wall_ns=WALL_NS)
    assert await sink.send([sent]) == []
    (record,) = await broker.read_all("record")
    assert record.key == b"line3/cam2"
    assert record.timestamp == WALL_NS // 1_000_000
    assert json.loads(record.value) == sent.data
    assert dict(record.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"line3/cam2/17/5",
        "ce_type": b"record",
        "ce_source": b"/site/line3/cam2",
        "ce_subject": b"cam2",
        "ce_time": b"2026-07-29T08:00:00.123Z",
        "ce_dataschema": b"urn:clearline:schema:record",
        "ce_partitionkey": b"line3/cam2",
        "ce_sequence": b"0000000017-00000000000000000005",
        "content-type": b"application/json",
    }


async def test_events_of_a_key_stand_in_one_partition_in_their_order(
    broker: KafkaBroker, sink: KafkaSink
) -> None:
    await broker.create_topic("keys-a", partitions=6)
    await broker.create_topic("keys-b", partitions=3)
    keys = [f"line3/cam{k}" for k in range(20)]
    for first in range(0, 30, 10):
        await sink.send(
            [
                event(topic, n, key, filling=1000)
                for n in range(first, first + 10)
                for key in keys
                for topic in ("keys-a", "keys-b")
            ]
        )
    for topic, partitions in (("keys-a", 6), ("keys-b", 3)):
        records = await broker.read_all(topic)
        assert len({record.partition for record in records}) == partitions
        for key in keys:
            assert numbers(records, key) == list(range(30))
            assert len({r.partition for r in records if r.key == key.encode()}) == 1


async def test_what_a_batch_has_no_room_for_comes_in_the_next(
    broker: KafkaBroker, sink: KafkaSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "BATCH_BYTES", 4000)
    await broker.create_topic("small", partitions=2)
    await sink.send([event("small", n, key, 1000) for n in range(20) for key in ("a/1", "a/2")])
    records = await broker.read_all("small")
    assert numbers(records, "a/1") == numbers(records, "a/2") == list(range(20))


@pytest.mark.parametrize("large", [{0}, {39}, {7, 8, 30}, set(range(40))], ids=str)
async def test_records_the_broker_finds_too_large_are_refused_and_their_neighbours_arrive(
    broker: KafkaBroker, sink: KafkaSink, large: set[int]
) -> None:
    topic = f"large-{len(large)}-{min(large)}"
    await broker.create_topic(topic, properties={"max.message.bytes": 20_000})
    events = [event(topic, n, filling=30_000 if n in large else 900) for n in range(40)]
    refusals = await sink.send(events)
    assert [refusal.event for refusal in refusals] == [events[n] for n in sorted(large)]
    assert all("MessageSizeTooLarge" in refusal.reason for refusal in refusals)
    assert numbers(await broker.read_all(topic)) == [n for n in range(40) if n not in large]


async def test_a_record_over_our_own_limit_is_refused_unsent(
    broker: KafkaBroker, sink: KafkaSink
) -> None:
    await broker.create_topic("giant")
    giant = event("giant", 1, filling=kafka.RECORD_BYTES)
    (refusal,) = await sink.send([event("giant", 0), giant, event("giant", 2)])
    assert refusal.event is giant
    assert str(kafka.RECORD_BYTES) in refusal.reason
    assert numbers(await broker.read_all("giant")) == [0, 2]


async def test_a_record_from_the_future_is_refused_and_its_neighbours_arrive(
    broker: KafkaBroker, sink: KafkaSink
) -> None:
    """Brokers take no timestamp that is over an hour ahead of them: our clock is wrong then."""
    await broker.create_topic("future")
    future = event("future", 1, wall_ns=time.time_ns() + 2 * 3600 * 10**9)
    (refusal,) = await sink.send([event("future", 0), future, event("future", 2)])
    assert refusal.event is future
    assert "InvalidTimestamp" in refusal.reason
    assert numbers(await broker.read_all("future")) == [0, 2]


async def test_a_missing_topic_is_a_sink_error_and_nothing_of_the_others_is_sent(
    broker: KafkaBroker, sink: KafkaSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "TOPIC_S", 0.5)
    await broker.create_topic("there")
    with pytest.raises(SinkError, match="topic = 'missing' is not known") as refused:
        await sink.send([event("there", 0), event("missing", 1)])
    assert broker.address in str(refused.value)
    assert await broker.read_all("there") == []


async def test_a_topic_that_was_missing_is_found_once_it_is_made(
    broker: KafkaBroker, sink: KafkaSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "TOPIC_S", 0.5)
    with pytest.raises(SinkError):
        await sink.send([event("late", 0)])
    await broker.create_topic("late")
    await sink.send([event("late", 0)])
    assert numbers(await broker.read_all("late")) == [0]


@pytest.mark.parametrize("filling", [50, 2000])
async def test_sending_leaves_the_loop_to_others_all_the_time(
    broker: KafkaBroker, sink: KafkaSink, filling: int
) -> None:
    """In CPU time of this thread: what other processes take is no fault of ours."""
    topic = f"busy-{filling}"
    await broker.create_topic(topic, partitions=3)
    events = [event(topic, n, f"a/{n % 8}", filling) for n in range(4000)]
    await sink.send(events[:1])
    stretches: list[float] = []

    async def watch() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            stretches.append(time.thread_time() - before)

    watcher = asyncio.create_task(watch())
    await sink.send(events)
    watcher.cancel()
    assert len(stretches) > 100
    ordered = sorted(stretches)
    assert ordered[len(ordered) * 98 // 100] < STRETCH_S
    assert ordered[-1] < LONGEST_STRETCH_S


async def test_nothing_to_send_needs_no_broker(tmp_path: Path) -> None:
    sink = KafkaSink(kafka.KafkaSettings(("127.0.0.1:1",), "line3"))
    assert await sink.send([]) == ()
    await sink.close()


def test_without_aiokafka_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(clearline.UsageError, match=r"clearline\[kafka\]"):
        KafkaSink(kafka.KafkaSettings(("127.0.0.1:1",), "line3"))
