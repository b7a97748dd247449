"""One connection to a Kafka cluster, through aiokafka's producer.

That producer tries again by itself what our caller sends again anyway, keeps the reasons of its
failures for its log, and waits in `stop` for answers that do not come. So it sends every batch
once, we look ourselves whether a broker takes us before it starts, and leave it where anything
fails: the next connection has a producer of its own. Event loop only.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import clearline
from adapters.errors import SinkError
from adapters.tls import Tls

BATCH_BYTES = 1000 * 1000
"""A little less than what a broker takes by default (`message.max.bytes`)."""
CONNECT_S = 5.0
"""For one broker, with TLS, the password and its first answer."""
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
class KafkaSettings:
    bootstrap: tuple[str, ...]
    """host:port of brokers; the rest of the cluster is told by the first that answers."""
    client_id: str
    tls: Tls | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"


@dataclass(frozen=True, slots=True)
class No:
    """A broker's answer that will not change, however often it is asked."""

    to: Literal["topic", "records"]
    reason: str


def load_aiokafka() -> Any:
    """Raises UsageError where it is not installed."""
    try:
        import aiokafka  # type: ignore[import-untyped]
    except ImportError as error:
        raise clearline.UsageError(
            "Kafka needs a package that is not installed",
            expected="the extra clearline[kafka]",
        ) from error
    # It logs what it tries again by itself; our errors say it once, and where it was.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return aiokafka


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises UsageError where a file of it cannot be used."""
    file: Path = tls.ca
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            file = tls.cert
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError is one too
        raise clearline.UsageError(
            f"cannot be used: {error.strerror or error}",
            file=file,
            expected="certificates in PEM, and their key",
        ) from error
    return context


class KafkaLink:
    """`open` it once; after any error there is nothing but to `leave` it."""

    def __init__(self, settings: KafkaSettings, context: ssl.SSLContext | None) -> None:
        """Connects nothing."""
        self._kafka = load_aiokafka()
        self._settings = settings
        sasl = "" if settings.username is None else "SASL_"
        self._options = {
            "client_id": settings.client_id,
            # After our own limits: what we leave then has connections that can be cut.
            "request_timeout_ms": int(2000 * ANSWER_S),
            "security_protocol": sasl + ("PLAINTEXT" if context is None else "SSL"),
            "ssl_context": context,
            "sasl_mechanism": settings.mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password or "",
        }
        self._producer: Any = None
        self._starting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises SinkError where no broker takes us."""
        server = await self._first_that_takes_us()
        self._producer = self._kafka.AIOKafkaProducer(
            bootstrap_servers=server, acks="all", max_batch_size=BATCH_BYTES, **self._options
        )
        self._producer._message_accumulator._batch_ttl = 0  # nothing is sent a second time
        self._starting = asyncio.create_task(self._producer.start())
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(self._starting)
        except TimeoutError as error:
            raise self._silent(CONNECT_S) from error
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
                f"is not known to {self._cluster}",
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
            raise self._silent(ANSWER_S) from error
        except self._kafka.errors.KafkaError as error:
            raise SinkError(f"takes nothing: {error}", value=self._cluster) from error
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

    async def _first_that_takes_us(self) -> str:
        problem: SinkError | None = None
        for server in self._settings.bootstrap:
            try:
                await self._ask(server)
            except SinkError as error:
                problem = error
            else:
                return server
        assert problem is not None
        raise problem

    async def _ask(self, server: str) -> None:
        """Raises SinkError with the reason why it does not take us."""
        errors = self._kafka.errors
        question = self._kafka.protocol.metadata.MetadataRequest([])
        ((host, port, _),) = self._kafka.conn.collect_hosts(server)
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._kafka.conn.create_conn(host, port, **self._options)
                try:
                    await connection.send(question)
                finally:
                    connection.close()
        except TimeoutError as error:
            raise self._silent(CONNECT_S, server) from error
        except ssl.SSLError as error:
            raise SinkError(
                f"has no TLS that we trust: {error.reason or error}",
                value=server,
                expected="a certificate that the CA file vouches for",
            ) from error
        except (OSError, UnicodeError) as error:  # the latter: what cannot be a host's name
            raise SinkError(f"is not reached: {error}", value=server) from error
        except errors.KafkaConnectionError as error:
            raise SinkError(
                "ends the connection",
                value=server,
                expected="TLS where it wants TLS, and a user where it wants one",
            ) from error
        except (errors.KafkaError, ValueError) as error:  # the latter: SCRAM that does not add up
            raise SinkError(
                f"is refused by {server}: {error}",
                key="username",
                value=self._settings.username,
                expected=f"its password, and a broker that does {self._settings.mechanism}",
            ) from error

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
            f"is not written by {self._cluster}: {error}", key=f"{topic}[{number}]"
        ) from error

    def _silent(self, seconds: float, server: str | None = None) -> SinkError:
        return SinkError(f"does not answer within {seconds:g} s", value=server or self._cluster)

    @property
    def _cluster(self) -> str:
        return ",".join(self._settings.bootstrap)


def _heard(answer: "asyncio.Future[Any]") -> None:
    """So that nobody complains of an error that is not looked at."""
    if not answer.cancelled():
        answer.exception()
