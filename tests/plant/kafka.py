"""A real Apache Kafka of our own on free loopback ports, to be killed, frozen and started again."""

import asyncio
import json
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.admin import CreateAclsRequest
from plant.broker import free_port, make_certificate

from adapters.ports import Event
from adapters.sinks.kafka import KafkaSettings, KafkaSink

JARS = Path(__file__).parents[2] / ".venv/kafka/lib"
"""Where deploy/environment.sh puts what kafka-pom.xml names."""
JAVA = [
    "java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # else it leaves files in /tmp
    "-Dlog4j2.configurationFile=log4j2.properties",
    "-cp", f"{JARS}/*",
]  # fmt: skip
CLUSTER_ID = "clearline-plant-kafkaA"
"""22 characters that stand for 16 bytes, so that not every one of them will do."""
START_S = 60.0
"""3 to 9 s where nobody else needs the cores."""
LOGGING = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


class KafkaBroker:
    """Starts at once, keeps its ports and its records for life. A context manager, or `stop` it.

    The tests have a door of their own, without TLS and password, through which they may do all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: bool = False,
        users: Mapping[str, str] | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """`folder` takes its files. `users`: passwords by name, for PLAIN and SCRAM-SHA-512; with
        them nobody else is let in. `properties` are the broker's own, `num.partitions` say."""
        self.port, self._tests_port, controller_port = free_port(), free_port(), free_port()
        self.ca = folder / "ca.pem" if tls else None
        """What a client must trust; the certificate is good for 127.0.0.1 and localhost."""
        self.log = folder / "kafka.log"
        self._folder = folder
        protocol = ("SASL_" if users else "") + ("SSL" if tls else "PLAINTEXT")
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"CLIENTS://127.0.0.1:{self.port},TESTS://127.0.0.1:{self._tests_port},"
            f"CONTROLLER://127.0.0.1:{controller_port}",
            "listener.security.protocol.map": f"CLIENTS:{protocol},TESTS:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "TESTS",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": folder / "records",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # After a kill it is taken for alive so long, and its next start must wait.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            "super.users": "User:ANONYMOUS",
        }
        if self.ca is not None:
            key, both = folder / "key.pem", folder / "key-and-certificate.pem"
            make_certificate(self.ca, key)
            both.write_bytes(key.read_bytes() + self.ca.read_bytes())
            settings |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": both}
        if users:
            plain = "".join(f' user_{name}="{word}"' for name, word in users.items())
            modules = "org.apache.kafka.common.security"
            settings |= {
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.clients.plain.sasl.jaas.config": f"{modules}.plain.PlainLoginModule"
                f" required{plain};",
                "listener.name.clients.scram-sha-512.sasl.jaas.config": f"{modules}.scram"
                ".ScramLoginModule required;",
            }
        lines = [f"{name}={value}\n" for name, value in (settings | dict(properties or {})).items()]
        (folder / "server.properties").write_text("".join(lines))
        (folder / "log4j2.properties").write_text(LOGGING)
        self._format(users or {})
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*JAVA, "kafka.Kafka", "server.properties"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"Kafka does not answer: {self.log.read_text()}"
            time.sleep(0.05)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In good order; also from a freeze, and where it is gone already."""
        self.thaw()
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Its sockets stay open, and nobody answers."""
        self._told(signal.SIGSTOP)

    def thaw(self) -> None:
        self._told(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def restart(self) -> None:
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()  # nobody wants its records any more

    async def create_topic(
        self, name: str, partitions: int = 1, properties: Mapping[str, object] | None = None
    ) -> None:
        """`properties` are the topic's own. Returns when it can be written."""
        own = {key: str(value) for key, value in (properties or {}).items()}
        async with self._admin() as admin:
            told = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=own)])
            assert told.topic_errors[0][1] == 0, told
        async with self._reading(name):  # a topic exists before its partitions have leaders
            pass

    async def allow(self, user: str, what: Literal["write", "describe"], topic: str) -> None:
        """Who may write, may describe. Wants `authorizer.class.name` among the properties."""
        topics, literal, allow = 2, 3, 3  # the protocol's numbers
        operation = {"write": 4, "describe": 8}[what]
        acl = CreateAclsRequest(topics, topic, literal, f"User:{user}", "*", operation, allow)
        async with self._admin() as admin:
            told = await admin._send_request(acl)
            assert told.creation_responses[0][0] == 0, told

    async def read_all(self, topic: str) -> list[ConsumerRecord]:
        """Everything there is now, partition by partition, each in its order."""
        records: list[ConsumerRecord] = []
        async with self._reading(topic) as (consumer, ends):
            for partition, end in ends.items():
                consumer.assign([partition])
                consumer.seek(partition, 0)
                while await consumer.position(partition) < end:
                    told = await consumer.getmany(partition, timeout_ms=1000)
                    records += told.get(partition, [])
        return records

    @asynccontextmanager
    async def _reading(
        self, topic: str
    ) -> AsyncIterator[tuple[AIOKafkaConsumer, dict[TopicPartition, int]]]:
        """With where each partition ends, which only its leader knows."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._door, enable_auto_commit=False)
        async with asyncio.timeout(30), consumer:
            await consumer._client._wait_on_metadata(topic)
            numbers = sorted(consumer.partitions_for_topic(topic))
            yield (
                consumer,
                await consumer.end_offsets([TopicPartition(topic, n) for n in numbers]),
            )

    @property
    def _door(self) -> str:
        return f"127.0.0.1:{self._tests_port}"

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._door)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    def _format(self, users: Mapping[str, str]) -> None:
        scram = [
            f"--add-scram=SCRAM-SHA-512=[name={name},password={word}]"
            for name, word in users.items()
        ]
        tool = [*JAVA, "kafka.tools.StorageTool", "format"]
        told = subprocess.run(
            [*tool, "-c", "server.properties", "-t", CLUSTER_ID, *scram],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr

    def _answers(self) -> bool:
        """Metadata that name a broker: it listens long before."""
        client = struct.pack(">h5s", 5, b"tests")
        request = struct.pack(">hhi", 3, 1, 0) + client + struct.pack(">i", 0)
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._tests_port), 1) as door,
        ):
            door.sendall(struct.pack(">i", len(request)) + request)
            told = door.recv(12)  # size, our number, how many brokers
            return len(told) == 12 and struct.unpack(">iii", told)[2] > 0
        return False

    def _told(self, signal_: signal.Signals) -> None:
        self._process.send_signal(signal_)

    def _end(self, how: signal.Signals) -> None:
        self._told(how)
        self._process.wait(30)


def event(
    topic: str, number: int, key: str = "line3/cam2", filling: int = 0, wall_ns: int | None = None
) -> Event:
    """Of a type that no product has, so that each test may have a topic of its own."""
    source, _, subject = key.rpartition("/")
    return Event(
        id=f"{key}/17/{number}",
        type=cast(Any, topic),
        source=f"/site/{source}/{subject}",
        subject=subject,
        key=key,
        wall_ns=time.time_ns() if wall_ns is None else wall_ns,
        data={"event_id": f"{key}/17/{number}", "sequence": number, "filling": "x" * filling},
        sequence=f"{17:010d}-{number:020d}",
    )


def numbers(records: list[ConsumerRecord], key: str = "line3/cam2") -> list[int]:
    """Of the events of a key, as they stand in the topic."""
    return [json.loads(r.value)["sequence"] for r in records if r.key == key.encode()]


def sink_to(broker: KafkaBroker, **settings: Any) -> KafkaSink:
    return KafkaSink(KafkaSettings((broker.address,), "line3", **settings))
