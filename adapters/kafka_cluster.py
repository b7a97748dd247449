"""A Kafka cluster as writers and readers meet it: how it is reached, and its first answer.

aiokafka keeps the reasons why it cannot connect for its log. So we look ourselves whether a broker
takes us, before it is asked to.
"""

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import clearline
from adapters.errors import SinkError
from adapters.tls import Tls

CONNECT_S = 5.0
"""For one broker, with TLS, the password and its first answer."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    bootstrap: tuple[str, ...]
    """host:port of brokers; the rest of the cluster is told by the first that answers."""
    client_id: str
    tls: Tls | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"


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


class KafkaCluster:
    """Connects nothing by itself."""

    def __init__(self, settings: KafkaSettings) -> None:
        """UsageError where Kafka is not installed, or a certificate cannot be used."""
        self.kafka = load_aiokafka()
        self.name = ",".join(settings.bootstrap)
        self._settings = settings
        context = None if settings.tls is None else tls_context(settings.tls)
        sasl = "" if settings.username is None else "SASL_"
        self.options = {
            "client_id": settings.client_id,
            "security_protocol": sasl + ("PLAINTEXT" if context is None else "SSL"),
            "ssl_context": context,
            "sasl_mechanism": settings.mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password or "",
        }
        """What aiokafka wants to know for each connection."""

    async def first_that_takes_us(self) -> str:
        """Its host:port. Raises SinkError with the reason why none does."""
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
        errors = self.kafka.errors
        question = self.kafka.protocol.metadata.MetadataRequest([])
        ((host, port, _),) = self.kafka.conn.collect_hosts(server)
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self.kafka.conn.create_conn(host, port, **self.options)
                try:
                    await connection.send(question)
                finally:
                    connection.close()
        except TimeoutError as error:
            raise SinkError(f"does not answer within {CONNECT_S:g} s", value=server) from error
        except ssl.SSLError as error:
            raise SinkError(
                f"has no TLS that we trust: {error.reason or error}",
                value=server,
                expected="a certificate that the CA file vouches for",
            ) from error
        except (
            OSError,
            UnicodeError,
            OverflowError,
        ) as error:  # the latter: what cannot be a host's name
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
