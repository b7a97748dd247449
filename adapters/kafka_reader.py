"""Events back from Kafka, for those who look on: without a group, so that nothing is committed.

Whatever goes wrong ends the connection; the next call makes another and goes on where this one was.
For one thread, in which aiokafka runs while a call waits.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

import clearline
from adapters.errors import SinkError
from adapters.kafka_cluster import KafkaCluster, KafkaSettings

ANSWER_S = 5.0
"""For a broker, to whatever it is asked."""
WAIT_S = 0.5
"""For new records; so long a call may take where all is well."""
LOOK_S = 5.0
"""Between looks for topics and partitions that are new, and whether anybody is still there."""
CLOSE_S = 2.0
LOOK_BACK = 10_000
"""Records of each partition at most, for the last ones that somebody wants."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
T = TypeVar("T")


class KafkaReadError(clearline.Error):
    """No broker answers, or none lets us read."""


class RecordError(clearline.Error):
    """A record is no event. Those behind it are read."""


Line = dict[str, Any] | RecordError
"""An event in CloudEvents' JSON format, or why the record is none."""


class KafkaReader:
    """All partitions of some topics, also of those that are made later."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str]) -> None:
        """Connects nothing. UsageError where Kafka is not installed, or a certificate is bad."""
        self._cluster = KafkaCluster(settings)
        self._kafka = self._cluster.kafka
        self._topics = tuple(topics)
        self._runner = asyncio.Runner()
        self._consumer: Any = None
        self._next: dict[Any, int] = {}
        """By partition, the offset that was not yet told."""
        self._looked_s = 0.0

    def last(self, most: int, takes: Callable[[dict[str, Any]], bool]) -> list[Line]:
        """So many of what is there and wanted, in order of time; `read` goes on behind it.
        Records that are no events are among them.

        Raises KafkaReadError.
        """
        return self._run(self._last(most, takes))

    def read(self) -> list[Line]:
        """What came since the last call, in order of time; waits a moment. Raises KafkaReadError.

        All that is there where nothing was read before."""
        return self._run(self._read())

    def close(self) -> None:
        self._runner.run(self._leave())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except SinkError as error:  # nobody takes us, and it says why
            raise KafkaReadError(
                error.problem, key=error.key, value=error.value, expected=error.expected
            ) from error
        except TimeoutError as error:
            self._runner.run(self._leave())
            raise KafkaReadError(
                f"does not answer within {ANSWER_S:g} s", value=self._cluster.name
            ) from error
        # ValueError: SCRAM that does not add up.
        except (self._kafka.errors.KafkaError, OSError, ValueError) as error:
            self._runner.run(self._leave())
            problem = f"{type(error).__name__} {error}".strip()
            raise KafkaReadError(f"cannot be read: {problem}", value=self._cluster.name) from error

    async def _read(self) -> list[Line]:
        consumer = await self._connected()
        found = []
        told = await consumer.getmany(timeout_ms=int(1000 * WAIT_S))
        for partition, records in told.items():
            self._next[partition] = records[-1].offset + 1
            found += records
        return [_line(record) for record in sorted(found, key=_time)]

    async def _last(self, most: int, takes: Callable[[dict[str, Any]], bool]) -> list[Line]:
        consumer = await self._connected()
        partitions = list(self._next)
        async with asyncio.timeout(ANSWER_S):
            begins = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        found: list[tuple[int, Line]] = []
        for partition, end in ends.items():
            begin = max(begins[partition], end - LOOK_BACK)
            found += await self._last_of(partition, begin, end, most, takes)
        self._go_on_at(ends)
        found.sort(key=lambda pair: pair[0])
        return [line for _, line in found[-most:]]

    async def _last_of(
        self,
        partition: Any,
        begin: int,
        end: int,
        most: int,
        takes: Callable[[dict[str, Any]], bool],
    ) -> list[tuple[int, Line]]:
        """With their times. Reads from further and further back until there are enough."""
        self._consumer.assign([partition])
        span, start = most, end
        found: list[tuple[int, Line]] = []
        while start > begin and len(found) < most:
            start = max(begin, end - span)
            records = await self._between(partition, start, end)
            lines = [(_time(record), _line(record)) for record in records]
            found = [
                (at, line) for at, line in lines if isinstance(line, RecordError) or takes(line)
            ]
            span *= 8
        return found[-most:]

    async def _between(self, partition: Any, start: int, end: int) -> list[Any]:
        self._consumer.seek(partition, start)
        found: list[Any] = []
        while not found or found[-1].offset < end - 1:
            told = await self._consumer.getmany(partition, timeout_ms=int(1000 * ANSWER_S))
            if not told:
                raise TimeoutError
            found += told[partition]
        return [record for record in found if record.offset < end]

    async def _connected(self) -> Any:
        server = await self._cluster.first_that_takes_us() if self._consumer is None else ""
        async with asyncio.timeout(ANSWER_S):
            if self._consumer is None:
                self._consumer = self._kafka.AIOKafkaConsumer(
                    bootstrap_servers=server,
                    group_id=None,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    request_timeout_ms=int(2000 * ANSWER_S),
                    **self._cluster.options,
                )
                await self._consumer.start()
                await self._look()
                self._go_on_at(self._next)
            elif time.monotonic() - self._looked_s > LOOK_S:
                known = len(self._next)
                await self._look()
                if len(self._next) > known:
                    self._go_on_at(self._next)
        return self._consumer

    async def _look(self) -> None:
        """Asks for all topics: a broker may make one that is asked for by name."""
        cluster = await self._consumer._client.fetch_all_metadata()
        for topic in self._topics:
            for number in cluster.partitions_for_topic(topic) or ():
                self._next.setdefault(self._kafka.TopicPartition(topic, number), 0)
        self._looked_s = time.monotonic()

    def _go_on_at(self, offsets: dict[Any, int]) -> None:
        self._next = dict(offsets)
        self._consumer.assign(list(offsets))
        for partition, offset in offsets.items():
            self._consumer.seek(partition, offset)  # where it is gone already: what is oldest

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        # Closed in peace they would wait for a frozen broker to read what it was sent.
        for connection in consumer._client._conns.values():
            if connection.connected():
                connection._writer.transport.abort()
        # aiokafka lets the end of its own tasks through, and then leaves the rest as it is.
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(CLOSE_S):
                try:
                    await consumer.stop()
                finally:
                    await consumer._client.close()
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn


def _time(record: Any) -> int:
    timestamp: int = record.timestamp
    return timestamp


def _line(record: Any) -> Line:
    """Binary mode into the structured one."""
    try:
        headers = {
            name: value.decode(errors="replace")
            for name, value in record.headers if value is not None
        }  # fmt: skip
        data = _decode(record.value or b"")
    except Exception:  # noqa: BLE001 (anybody may write anything there)
        return RecordError(
            "is no event",
            key=f"{record.topic}[{record.partition}]",
            value=record.offset,
            expected="a JSON object",
        )
    attributes = {
        name.removeprefix("ce_"): text for name, text in headers.items() if name.startswith("ce_")
    }
    content = headers.get("content-type", "application/json")
    attributes.setdefault("type", record.topic)
    return {**attributes, "datacontenttype": content, "data": data}
