"""The road to the plant where the broker asks who we are, and we ask who it is."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from plant.broker import make_certificate
from plant.kafka import KafkaBroker, event, numbers, sink_to

import clearline
from adapters.errors import SinkError
from adapters.sinks.kafka import KafkaSettings, KafkaSink
from adapters.tls import Tls

USER, PASSWORD = "line3", "a word that nobody guesses"
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """SASL over TLS, and who is not allowed to write may not."""
    with KafkaBroker(
        tmp_path_factory.mktemp("kafka"),
        tls=True,
        users={USER: PASSWORD},
        properties={"authorizer.class.name": AUTHORIZER},
    ) as broker:
        yield broker


@contextlib.asynccontextmanager
async def opened(broker: KafkaBroker, **settings: object) -> AsyncIterator[KafkaSink]:
    """With TLS and the right password, but for what `settings` say."""
    right = {"tls": Tls(broker.ca), "username": USER, "password": PASSWORD}
    sink = sink_to(broker, **(right | settings))
    try:
        yield sink
    finally:
        await sink.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_events_go_over_tls_to_who_knows_our_password(
    broker: KafkaBroker, mechanism: str
) -> None:
    topic = f"secret-{mechanism}"
    await broker.create_topic(topic)
    await broker.allow(USER, "write", topic)
    async with opened(broker, mechanism=mechanism) as sink:
        assert await sink.send([event(topic, n) for n in range(3)]) == []
    assert numbers(await broker.read_all(topic)) == [0, 1, 2]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_told_and_not_shown(broker: KafkaBroker, mechanism: str) -> None:
    async with opened(broker, mechanism=mechanism, password="guess") as sink:
        with pytest.raises(SinkError, match="username = 'line3' is refused by") as refused:
            await sink.send([event("any", 0)])
    assert broker.address in str(refused.value)
    assert "guess" not in str(refused.value)


async def test_a_mechanism_that_the_broker_lacks_is_told(broker: KafkaBroker) -> None:
    async with opened(broker, mechanism="SCRAM-SHA-256") as sink:
        with pytest.raises(SinkError, match="a broker that does SCRAM-SHA-256") as refused:
            await sink.send([event("any", 0)])
    assert "UnsupportedSaslMechanism" in str(refused.value)


@pytest.mark.parametrize("lacking", [{"tls": None}, {"username": None}], ids=["tls", "user"])
async def test_where_we_bring_no_tls_or_no_user_both_are_named(
    broker: KafkaBroker, lacking: dict[str, None]
) -> None:
    async with opened(broker, **lacking) as sink:
        with pytest.raises(SinkError, match="ends the connection; expected TLS"):
            await sink.send([event("any", 0)])


async def test_a_broker_that_our_ca_does_not_know_is_not_trusted(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    make_certificate(tmp_path / "other.pem", tmp_path / "key.pem")
    async with opened(broker, tls=Tls(tmp_path / "other.pem")) as sink:
        with pytest.raises(SinkError, match="CERTIFICATE_VERIFY_FAILED") as refused:
            await sink.send([event("any", 0)])
    assert broker.address in str(refused.value)
    assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("seen", [False, True])
async def test_a_topic_we_may_not_write_is_refused_and_the_others_flow(
    broker: KafkaBroker, seen: bool
) -> None:
    ours, theirs = f"ours-{seen}", f"theirs-{seen}"
    await broker.create_topic(ours)
    await broker.create_topic(theirs)
    await broker.allow(USER, "write", ours)
    if seen:
        await broker.allow(USER, "describe", theirs)
    events = [event(topic, n) for n in range(200) for topic in (theirs, ours)]
    async with opened(broker) as sink:
        refusals = await sink.send(events)
    assert [refusal.event for refusal in refusals] == [e for e in events if e.type == theirs]
    assert all("TopicAuthorizationFailed" in refusal.reason for refusal in refusals)
    assert numbers(await broker.read_all(ours)) == list(range(200))
    assert await broker.read_all(theirs) == []


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_is_no_certificate_is_named_at_once(
    tmp_path: Path, broken: str, content: str | None
) -> None:
    files = {"ca": "ca.pem", "cert": "ca.pem", "key": "key.pem"} | {broken: "broken.pem"}
    make_certificate(tmp_path / "ca.pem", tmp_path / "key.pem")
    if content is not None:
        (tmp_path / "broken.pem").write_text(content)
    tls = Tls(**{name: tmp_path / file for name, file in files.items()})
    with pytest.raises(clearline.UsageError, match=r"\.pem: cannot be used"):
        KafkaSink(KafkaSettings(("127.0.0.1:1",), "line3", tls=tls))
