"""One connection to a Kafka cluster, through aiokafka's producer.

That producer tries again by itself what our caller sends again anyway, and waits in `stop` for
answers that do not come. So it sends every batch once, and is left where anything fails: the next
connection has a producer of its own. Event loop only.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adapters.errors import SinkError
from adapters.kafka_cluster import CONNECT_S, KafkaCluster

BATCH_BYTES = 1000 * 1000
"""A little less than what a broker takes by default (`message.max.bytes`)."""
TOPIC_S = 5.0
"""Long enough for a broker that makes topics when they are asked for."""
ANSWER_S = 10.0
"""For all that is under way at once; replicas have to write it as well."""

INVALID_RECORD = 87
"""A code of the protocol that aiokafka has no name for."""

Partition = tuple[str, int]
"""Topic and number."""
Batch = Any
"""A BatchBuilder of aiokafka, which has no types."""


@dataclass(frozen=True, slots=True)
class No:
    """A broker's answer that will not change, however often it is asked."""

    to: Literal["topic", "records"]
    reason: str


class KafkaLink:
    """`open` it once; after any error there is nothing but to `leave` it."""

    def __init__(self, cluster: KafkaCluster) -> None:
        """Connects nothing."""
        self._cluster, self._kafka = cluster, cluster.kafka
        self._producer: Any = None
        self._starting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises SinkError where no broker takes us."""
        server = await self._cluster.first_that_takes_us()
        self._producer = self._kafka.AIOKafkaProducer(
            bootstrap_servers=server,
            acks="all",
            max_batch_size=BATCH_BYTES,
            # After our own limits: what we leave then has connections that can be cut.
            request_timeout_ms=int(2000 * ANSWER_S),
            **self._cluster.options,
        )
        self._producer._message_accumulator._batch_ttl = 0  # nothing is sent a second time
        self._starting = asyncio.create_task(self._producer.start())
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(self._starting)
        except TimeoutError as error:
            raise SinkError(f"does not answer within {CONNECT_S:g} s", value=server) from error
        except self._kafka.errors.KafkaError as error:
            raise SinkError(f"is lost: {error}", value=server) from error

    async def partitions(self, topic: str) -> tuple[int, ...] | No:
        """Raises SinkError where the cluster has no such topic, and makes none."""
        try:
            async with asyncio.timeout(TOPIC_S):
                return tuple(sorted(await self._producer.partitions_for(topic)))
        except self._kafka.errors.TopicAuthorizationFailedError as error:
            return No("topic", str(error))
        except (TimeoutError, self._kafka.errors.KafkaError) as error:
            raise SinkError(
                f"is not known to {self._cluster.name}",
                key="topic",
                value=topic,
                expected="a topic that is there, or brokers that answer and make it",
            ) from error

    def partition_of(self, key: str, numbers: tuple[int, ...]) -> int:
        """Where every Kafka client puts that key."""
        number: int = self._kafka.partitioner.DefaultPartitioner()(key.encode(), numbers, numbers)
        return number

    def batch(self) -> Batch:
        """To be filled up to BATCH_BYTES."""
        return self._producer.create_batch()

    async def deliver(self, batches: Mapping[Partition, Batch]) -> dict[Partition, No]:
        """Returns when every batch is safe, but for those that are refused, as a whole.

        Raises SinkError where of any batch neither is known.
        """
        answers: dict[Partition, asyncio.Future[Any]] = {}
        try:
            async with asyncio.timeout(ANSWER_S):
                for (topic, number), batch in batches.items():
                    answer = await self._producer.send_batch(batch, topic, partition=number)
                    answer.add_done_callback(_heard)
                    answers[topic, number] = answer
                await asyncio.wait(answers.values())
        except TimeoutError as error:
            raise SinkError(
                f"does not answer within {ANSWER_S:g} s", value=self._cluster.name
            ) from error
        except self._kafka.errors.KafkaError as error:
            raise SinkError(f"takes nothing: {error}", value=self._cluster.name) from error
        refused: dict[Partition, No] = {}
        for partition, answer in answers.items():
            fault = answer.exception()
            if fault is not None:
                refused[partition] = self._no(fault, *partition)
        return refused

    async def leave(self) -> None:
        """Cuts its connections and ends its tasks. Takes a moment; where a broker is being
        connected and does not answer, the time that aiokafka has for that."""
        if self._starting is None:
            return
        try:
            await asyncio.wait([self._starting])
        finally:
            # Closed in peace they would wait for a frozen broker to read what it was sent.
            for connection in self._producer.client._conns.values():
                if connection.connected():
                    connection._writer.transport.abort()
            await self._producer.stop()
            _heard(self._starting)

    def _no(self, error: BaseException, topic: str, number: int) -> No:
        """Raises SinkError where the batch is not to blame."""
        errors = self._kafka.errors
        code = getattr(error, "errno", None)
        if code in (
            errors.MessageSizeTooLargeError.errno,
            errors.RecordListTooLargeError.errno,
            errors.InvalidTimestampError.errno,
            INVALID_RECORD,
        ):
            return No("records", str(error))
        if code in (errors.TopicAuthorizationFailedError.errno, errors.InvalidTopicError.errno):
            return No("topic", str(error))
        raise SinkError(
            f"is not written by {self._cluster.name}: {error}", key=f"{topic}[{number}]"
        ) from error


def _heard(answer: "asyncio.Future[Any]") -> None:
    """So that nobody complains of an error that is not looked at."""
    if not answer.cancelled():
        answer.exception()
