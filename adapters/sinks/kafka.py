"""Events to Kafka: CloudEvents 1.0 in binary mode, one topic for each type, in order of each key.

A list goes out in rounds, with at most one batch for each partition, and the next round only once
this one is answered: what fails is sent again as a whole, and nothing overtakes. It all happens on
the event loop, which must not wait: no stretch of work is longer than about a millisecond.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from adapters.errors import SinkError
from adapters.kafka_cluster import KafkaCluster, KafkaSettings
from adapters.ports import Event, EventType, Refusal
from adapters.sinks.cloud_event import CONTENT_TYPE, attributes
from adapters.sinks.kafka_link import (
    Batch,
    KafkaLink,
    No,
    Partition,
)

AT_ONCE = 16
"""Events that are written into a batch before others have their turn on the loop."""
ROUND_BYTES = 128 * 1024
"""Of values, about, in all batches of a round: aiokafka makes them one request, in one stretch."""
RECORD_BYTES = 512 * 1024
"""Half of what a broker takes by default (`message.max.bytes`), and far over our own 64 KiB."""
CLOSE_S = 2.0

_encode = msgspec.json.Encoder().encode
_CONTENT_TYPE = ("content-type", CONTENT_TYPE.encode())


class KafkaSink:
    """An EventSink for one caller at a time. Connects when there is something to send."""

    def __init__(self, settings: KafkaSettings) -> None:
        """UsageError where Kafka is not installed, or a certificate cannot be used."""
        self._cluster = KafkaCluster(settings)
        self._link: KafkaLink | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def send(self, events: Sequence[Event]) -> Sequence[Refusal]:
        if not events:
            return ()
        try:
            return await _send(await self._opened(), events)
        except BaseException:
            self._leave()
            raise

    async def ready(self) -> None:
        """Raises SinkError where no broker takes us, or a topic is missing or not ours to see."""
        link = await self._opened()  # whoever asks closes us in the end
        for topic in get_args(EventType):
            found = await link.partitions(topic)
            if isinstance(found, No):
                raise SinkError(f"is not for us: {found.reason}", key="topic", value=topic)

    async def close(self) -> None:
        self._leave()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=CLOSE_S)

    async def _opened(self) -> KafkaLink:
        if self._link is None:
            self._link = KafkaLink(self._cluster)
            await self._link.open()
        return self._link

    def _leave(self) -> None:
        if self._link is not None:
            task = asyncio.create_task(self._link.leave())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            self._link = None


async def _send(link: KafkaLink, events: Sequence[Event]) -> list[Refusal]:
    refusals: list[Refusal] = []
    # Before anything is sent: where one is missing, nothing of the others goes twice.
    topics: dict[str, tuple[int, ...] | No] = {
        topic: await link.partitions(topic) for topic in {event.type for event in events}
    }
    waiting = deque(events)
    while waiting:
        lanes = await _next_round(link, topics, waiting, refusals)
        while lanes:
            batches = {partition: await lane.batch(link) for partition, lane in lanes.items()}
            refused = await link.deliver(batches)
            for partition, lane in lanes.items():
                lane.answered(refused.get(partition))
            lanes = {partition: lane for partition, lane in lanes.items() if lane.waiting}
    return refusals


async def _next_round(
    link: KafkaLink,
    topics: Mapping[str, tuple[int, ...] | No],
    waiting: deque[Event],
    refusals: list[Refusal],
) -> "dict[Partition, _Lane]":
    lanes: dict[Partition, _Lane] = {}
    size = taken = 0
    while waiting and size < ROUND_BYTES:
        event = waiting.popleft()
        numbers = topics[event.type]
        if isinstance(numbers, No):
            refusals.append(Refusal(event, numbers.reason))
            continue
        value = _encode(event.data)
        if len(value) > RECORD_BYTES:
            refusals.append(Refusal(event, f"has {len(value)} bytes, {RECORD_BYTES} at most go"))
            continue
        partition = event.type, link.partition_of(event.key, numbers)
        lanes.setdefault(partition, _Lane(refusals)).waiting.append((event, value))
        size += len(value)
        taken += 1
        if taken % AT_ONCE == 0:
            await asyncio.sleep(0)
    return lanes


class _Lane:
    """What waits for one partition, in order, as events with their values."""

    def __init__(self, refusals: list[Refusal]) -> None:
        self.waiting: deque[tuple[Event, bytes]] = deque()
        self._refusals = refusals
        self._under_way: list[tuple[Event, bytes]] = []
        self._most: float = float("inf")
        """In a batch; few while the one that is refused is searched for."""

    async def batch(self, link: KafkaLink) -> Batch:
        batch = link.batch()
        while self.waiting and len(self._under_way) < self._most:
            event, value = self.waiting[0]
            headers = [(f"ce_{key}", text.encode()) for key, text in attributes(event).items()]
            written = batch.append(
                timestamp=event.wall_ns // 1_000_000,
                key=event.key.encode(),
                value=value,
                headers=[*headers, _CONTENT_TYPE],
            )
            if written is None:  # full
                break
            self._under_way.append(self.waiting.popleft())
            if len(self._under_way) % AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return batch

    def answered(self, no: No | None) -> None:
        sent, self._under_way = self._under_way, []
        if no is None:
            self._most *= 2
        elif no.to == "topic" or len(sent) == 1:
            self._refusals.extend(Refusal(event, no.reason) for event, _ in sent)
            self._most *= 2
        else:  # a broker refuses a batch for one record in it, and does not say which
            self.waiting.extendleft(reversed(sent))
            self._most = len(sent) // 2
