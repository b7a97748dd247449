"""The road to the plant while its broker is away, killed or frozen: nothing lost, nothing stuck."""

import asyncio
import contextlib
import gc
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord
from plant.kafka import KafkaBroker, event, numbers, sink_to
from plant.mqtt import until

from adapters import kafka_cluster
from adapters.errors import SinkError
from adapters.ports import Event
from adapters.sinks import kafka, kafka_link
from adapters.sinks.kafka import KafkaSink
from adapters.tls import Tls

KEYS = [f"line3/cam{k}" for k in range(5)]
PER_LIST = 20
"""Of each key."""
REBUILDS = 50


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """To be killed and frozen by one test after the other, each of which leaves it well."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), tls=True) as broker:
        yield broker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_link, "CONNECT_S", 1.0)
    monkeypatch.setattr(kafka_cluster, "CONNECT_S", 1.0)
    monkeypatch.setattr(kafka_link, "TOPIC_S", 1.0)
    monkeypatch.setattr(kafka_link, "ANSWER_S", 1.0)


@contextlib.asynccontextmanager
async def opened(broker: KafkaBroker) -> AsyncIterator[KafkaSink]:
    sink = sink_to(broker, tls=None if broker.ca is None else Tls(broker.ca))
    try:
        yield sink
    finally:
        await sink.close()


class Drainer:
    """Sends one list after the other, and each as a whole until it is through."""

    def __init__(self, sink: KafkaSink, topic: str) -> None:
        self._sink, self._topic = sink, topic
        self.through = self.failures = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            first = PER_LIST * self.through
            events = [
                event(self._topic, n, key, filling=1500)
                for n in range(first, first + PER_LIST)
                for key in KEYS
            ]
            while not await self._sent(events):
                self.failures += 1
                await asyncio.sleep(0.05)
            self.through += 1

    async def _sent(self, events: Sequence[Event]) -> bool:
        try:
            assert await self._sink.send(events) == []
        except SinkError:
            return False
        return True

    async def reaches(self, through: int) -> None:
        await until(lambda: self.through >= through or self._task.done(), 30)

    async def end(self) -> None:
        """With what it raised, if anything."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


def check(records: list[ConsumerRecord], through: int) -> None:
    """Nothing is missing, and nothing twice but from the start of its list on."""
    for key in KEYS:
        sent = numbers(records, key)
        assert set(sent) >= set(range(PER_LIST * through))
        assert sent[0] == 0
        for before, after in pairwise(sent):
            again = after <= before and after % PER_LIST == 0
            assert after == before + 1 or again, (key, before, after)


async def test_a_broker_killed_in_the_middle_costs_no_event_and_no_order(
    broker: KafkaBroker,
) -> None:
    await broker.create_topic("killed", partitions=3)
    async with opened(broker) as sink:
        drainer = Drainer(sink, "killed")
        await drainer.reaches(20)
        broker.kill()
        await until(lambda: drainer.failures >= 2)
        await asyncio.to_thread(broker.start)
        await drainer.reaches(drainer.through + 20)
        await drainer.end()
    check(await broker.read_all("killed"), drainer.through)


async def test_a_broker_frozen_in_the_middle_costs_no_event_and_no_order(
    broker: KafkaBroker,
) -> None:
    await broker.create_topic("frozen", partitions=3)
    async with opened(broker) as sink:
        drainer = Drainer(sink, "frozen")
        await drainer.reaches(20)
        with broker.frozen():
            await until(lambda: drainer.failures >= 3)
        await drainer.reaches(drainer.through + 20)
        await drainer.end()
    check(await broker.read_all("frozen"), drainer.through)


async def test_a_broker_that_is_away_at_the_start_is_waited_for(broker: KafkaBroker) -> None:
    await broker.create_topic("away")
    broker.kill()
    async with opened(broker) as sink:
        with pytest.raises(SinkError, match="is not reached") as refused:
            await sink.send([event("away", 0)])
        await asyncio.to_thread(broker.start)
        await sink.send([event("away", 0)])
    assert broker.address in str(refused.value)
    assert numbers(await broker.read_all("away")) == [0]


async def test_the_first_broker_that_answers_will_do(broker: KafkaBroker) -> None:
    await broker.create_topic("first")
    sink = KafkaSink(kafka.KafkaSettings(("127.0.0.1:1", broker.address), "line3"))
    await sink.send([event("first", 0)])
    await sink.close()
    assert numbers(await broker.read_all("first")) == [0]


@pytest.mark.parametrize("connected", [False, True])
async def test_a_frozen_broker_is_a_sink_error_in_time(
    broker: KafkaBroker, connected: bool
) -> None:
    topic = f"in-time-{connected}"
    await broker.create_topic(topic)
    async with opened(broker) as sink:
        if connected:
            await sink.send([event(topic, 0)])
        with broker.frozen():
            before = time.monotonic()
            with pytest.raises(SinkError, match="does not answer within 1 s"):
                await sink.send([event(topic, n, filling=2000) for n in range(1000)])
            assert time.monotonic() - before < 1.5


@pytest.mark.parametrize("which", ["broker", "tls_broker"])
async def test_closing_waits_for_no_frozen_broker_that_is_sent_to(
    request: pytest.FixtureRequest, which: str
) -> None:
    broker: KafkaBroker = request.getfixturevalue(which)
    await broker.create_topic("closing")
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    async with opened(broker) as sink:
        await sink.send([event("closing", 0)])
        with broker.frozen():
            sending = asyncio.create_task(
                sink.send([event("closing", n, filling=20_000) for n in range(50)])
            )
            await asyncio.sleep(0.2)  # stands in the middle of it
            sending.cancel()
            await asyncio.wait([sending])
            await sink.close()
            assert len(asyncio.all_tasks()) == tasks
            assert _descriptors() == descriptors


async def test_closing_is_bounded_while_a_frozen_broker_is_connected_to(
    broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen after it had taken us: aiokafka waits for it."""
    monkeypatch.setattr(kafka_link, "ANSWER_S", 10.0)
    asked = kafka_cluster.KafkaCluster._ask

    async def asked_and_frozen(self: kafka_cluster.KafkaCluster, server: str) -> None:
        await asked(self, server)
        broker.freeze()

    monkeypatch.setattr(kafka_cluster.KafkaCluster, "_ask", asked_and_frozen)
    sink = sink_to(broker)
    tasks = len(asyncio.all_tasks())
    try:
        with pytest.raises(SinkError, match="does not answer"):
            await sink.send([event("closing", 0)])
        before = time.monotonic()
        await sink.close()
        assert time.monotonic() - before < kafka.CLOSE_S + 0.5
    finally:
        broker.thaw()
    await until(lambda: len(asyncio.all_tasks()) == tasks)


async def test_a_sink_that_never_connected_closes(broker: KafkaBroker) -> None:
    await sink_to(broker).close()


@pytest.mark.parametrize("frozen", [False, True], ids=["cancelled", "frozen"])
@pytest.mark.parametrize("which", ["broker", "tls_broker"])
async def test_producers_left_behind_leave_nothing_behind(
    request: pytest.FixtureRequest,
    which: str,
    frozen: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At any point of connecting and sending."""
    broker: KafkaBroker = request.getfixturevalue(which)
    topic = f"left-{frozen}"
    await broker.create_topic(topic, partitions=3)
    events = [event(topic, n, f"a/{n % 5}", filling=2000) for n in range(200)]
    chance = random.Random(7)
    async with opened(broker) as sink:
        await sink.send(events)  # what is loaded at the first time stays
    monkeypatch.setattr(kafka_link, "CONNECT_S", 0.1)
    monkeypatch.setattr(kafka_cluster, "CONNECT_S", 0.1)
    monkeypatch.setattr(kafka_link, "ANSWER_S", 0.1)
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    async with opened(broker) as sink:
        for _ in range(REBUILDS):
            sending = asyncio.create_task(_until_it_fails(sink, events))
            await asyncio.sleep(chance.uniform(0.0, 0.06))
            if frozen:
                with broker.frozen():
                    await sending
            else:
                sending.cancel()
                await asyncio.wait([sending])
            assert len(asyncio.all_tasks()) < tasks + 20
            assert _descriptors() < descriptors + 20
    await until(lambda: len(asyncio.all_tasks()) == tasks and _descriptors() == descriptors)
    gc.collect()
    assert [r for r in caplog.records if r.name == "asyncio" and r.levelno >= logging.WARNING] == []


async def _until_it_fails(sink: KafkaSink, events: Sequence[Event]) -> None:
    with contextlib.suppress(SinkError):
        while True:
            await sink.send(events)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
