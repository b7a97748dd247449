"""The line's edges: the only file that makes cameras and sinks, of the kinds that there are."""

import re
from collections.abc import Callable
from pathlib import Path

from adapters.errors import SourceUrlError
from adapters.kafka_cluster import KafkaSettings
from adapters.ports import EventSink, FrameSource
from adapters.sinks.jsonl import JsonLinesSink
from adapters.sinks.kafka import KafkaSink
from adapters.sinks.mqtt import MqttRoad
from adapters.sinks.mqtt_link import MqttSettings
from adapters.sources.product import SimulatedProduct
from adapters.sources.replay import ReplaySource
from adapters.sources.simulated import SimulatedSource
from adapters.sources.zeromq import ZeroMqSource
from adapters.tls import Tls
from adapters.url import CameraUrl
from daemon import config
from daemon.config import Configuration
from daemon.errors import ConfigurationError


def source(url: str, base: Path) -> FrameSource:
    """The camera behind a URL; paths in it are relative to `base`. Raises SourceUrlError."""
    parsed = CameraUrl.parse(url)
    kind = _SOURCES.get(parsed.scheme)
    if kind is None:
        raise SourceUrlError(
            "is no kind of camera that is known here", key="url", value=url,
            expected=" or ".join(f"{scheme}:…" for scheme in _SOURCES),
        )  # fmt: skip
    return kind(parsed, base)


def _replay(url: CameraUrl, base: Path) -> FrameSource:
    url.allow("fps", "loop")
    fps, loop = url.number("fps", 10.0), url.flag("loop", default=False)
    path = base / url.place
    if not url.place or not path.exists():
        raise SourceUrlError(
            "does not exist", key="url", value=url.text, expected="replay:PATH of what to play back"
        )
    return ReplaySource(path, fps=fps, loop=loop)


def _simulated(url: CameraUrl, base: Path) -> FrameSource:
    url.allow(
        "width", "height", "channels", "dtype", "seed", "defect_rate", "contrast", "strips", "fps",
        "frames", "first",
    )  # fmt: skip
    return SimulatedSource(
        simulated_product(url),
        fps=url.number("fps", 10.0),
        frames=url.whole("frames", 0),
        first=url.whole("first", 0),
    )


def simulated_product(url: CameraUrl) -> SimulatedProduct:
    """`simulated:woven?width=256&…`; the product checks its own values."""
    return SimulatedProduct(
        url.place,  # type: ignore[arg-type]
        height=url.whole("height", 256),
        width=url.whole("width", 256),
        channels=url.whole("channels", 1),  # type: ignore[arg-type]
        dtype=url.options.get("dtype", "uint8"),  # type: ignore[arg-type]
        seed=url.whole("seed", 0),
        defect_rate=url.number("defect_rate", 0.1),
        contrast=url.number("contrast", 1.0),
        strips=url.flag("strips", default=False),
    )


def _zeromq(url: CameraUrl, base: Path) -> FrameSource:
    url.allow("socket", "bind")
    socket = url.options.get("socket", "pull")
    if socket not in ("pull", "sub"):
        raise SourceUrlError(
            f"is wrong (in {url.text})", key="socket", value=socket, expected="pull or sub"
        )
    transport = url.scheme.removeprefix("zmq+")
    if transport == "tcp" and not re.fullmatch(r"[^:/]+:[1-9]\d{0,4}", url.place):
        raise SourceUrlError(
            "is no address", key="url", value=url.text, expected="zmq+tcp://HOST:PORT"
        )
    bind = url.flag("bind", default=False)
    return ZeroMqSource(f"{transport}://{url.place}", socket, bind=bind)  # type: ignore[arg-type]


_SOURCES: dict[str, Callable[[CameraUrl, Path], FrameSource]] = {
    "replay": _replay,
    "simulated": _simulated,
    "zmq+ipc": _zeromq,
    "zmq+tcp": _zeromq,
}


def event_sinks(settings: Configuration) -> dict[str, EventSink]:
    """Who gets the events, by the name of its cursor in the outbox. Raises UsageError."""
    sinks: dict[str, EventSink] = {}
    kafka = kafka_settings(settings)
    if kafka is not None:
        sinks["kafka"] = KafkaSink(kafka)
    path = jsonl_path(settings)
    if path is not None:
        sinks["jsonl"] = JsonLinesSink(
            path, settings.events.jsonl_max_bytes, settings.events.jsonl_keep
        )
    return sinks


def kafka_settings(settings: Configuration) -> KafkaSettings | None:
    """None where there is no Kafka. Raises UsageError where a file of it cannot be used."""
    kafka = settings.kafka
    if not kafka.bootstrap:
        return None
    return KafkaSettings(
        bootstrap=kafka.bootstrap,
        client_id=f"clearline-{settings.site}-{settings.line}",
        tls=_tls("kafka", kafka),
        username=kafka.username,
        password=_password("kafka", kafka),
        mechanism=kafka.mechanism,
    )


def jsonl_path(settings: Configuration) -> Path | None:
    """Where no Kafka takes the events, a file does."""
    named = settings.events.jsonl
    if named is None and not settings.kafka.bootstrap:
        return settings.state_dir / "events.jsonl"
    return named


def plc_road(settings: Configuration) -> MqttRoad | None:
    """None where there is no PLC. Raises UsageError where the road could not even be tried."""
    mqtt = settings.mqtt
    if mqtt.host is None:
        return None
    return MqttRoad(
        MqttSettings(
            host=mqtt.host,
            port=mqtt.port,
            base=mqtt.base.rstrip("/"),
            client_id=f"clearline-{settings.site}-{settings.line}",
            username=mqtt.username,
            password=_password("mqtt", mqtt),
            tls=_tls("mqtt", mqtt),
            byte_order=mqtt.byte_order,
            json=mqtt.verdicts_as_json,
            parts_from_plc=mqtt.parts_from_plc,
        ),
        settings.camera_numbers(),
    )


def _tls(section: str, said: config.MqttSettings | config.KafkaSettings) -> Tls | None:
    for key in ("ca_file", "cert_file", "key_file"):
        file = getattr(said, key)
        if file is not None and not file.is_file():
            raise ConfigurationError(
                "does not exist", key=f"{section}.{key}", value=str(file), expected="a PEM file"
            )
    return None if said.ca_file is None else Tls(said.ca_file, said.cert_file, said.key_file)


def _password(section: str, said: config.MqttSettings | config.KafkaSettings) -> str | None:
    """The first line of a file that only the service should be able to read."""
    file = said.password_file
    if file is None:
        return None
    try:
        return file.read_text().splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ConfigurationError(
            "cannot be read", file=file, key=f"{section}.password_file",
            expected="a line with the secret",
        ) from error  # fmt: skip
