"""Who is who: the only file that names concrete adapters and puts the parts together."""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog

from adapters.errors import SourceUrlError
from adapters.ports import Frame, FrameSource, Pixels, VerdictSink
from adapters.sinks.jsonl import JsonLinesSink
from adapters.sinks.mqtt import MqttRoad
from adapters.sinks.mqtt_link import MqttSettings, Tls
from adapters.sources.product import SimulatedProduct
from adapters.sources.replay import ReplaySource
from adapters.sources.simulated import SimulatedSource
from adapters.sources.zeromq import ZeroMqSource
from adapters.url import CameraUrl
from daemon.config import Configuration, RecipeSettings
from daemon.deadlines import Kind
from daemon.errors import ConfigurationError
from daemon.events import Line, Model
from daemon.plc import Plc
from daemon.pulse import PERIOD_MS, Pulse
from daemon.recipes import Recipes, Switched
from daemon.records import state_dir
from daemon.records.drain import Drain
from daemon.records.evidence import Evidence
from daemon.records.ledger import Ledger
from daemon.records.outbox import Outbox
from daemon.records.reconcile import Disagreement, Reconciliation
from daemon.service import Parts, Service
from daemon.stations.admit import Admit
from daemon.stations.batch import BatchQueue
from daemon.stations.ingest import Camera, Ingest
from daemon.stations.judge import Judge
from daemon.stations.publish import Place, Publish
from daemon.stations.score import Score
from daemon.stations.second_try import SecondTries
from daemon.worker.handle import WorkerHandle
from daemon.worker.protocol import Load, RecipeFiles, Result
from daemon.worker.ring import Quota
from daemon.worker.rooms import Room, make_ring
from model import bundle as bundles
from model import calibration as calibrations

log = structlog.get_logger()


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


def check_recipe(recipe: RecipeSettings) -> Model:
    """Reads all of the recipe's files, without torch. Raises BundleError, CalibrationError."""
    bundle = bundles.load(recipe.bundle)
    calibration = calibrations.load(recipe.calibration_path)
    calibration.require(bundle.hash, calibration.dtype, recipe.calibration_path)
    return Model(recipe.bundle.stem, bundle.hash[:8])


def build(
    configuration: Configuration, base: Path, verdict_sinks: Sequence[VerdictSink]
) -> Service:
    """Everything that a line needs, not yet started. On the event loop. Raises clearline.Error."""
    with contextlib.ExitStack() as on_failure:
        service = _build(configuration, base, verdict_sinks, on_failure)
        on_failure.pop_all()
        return service


def _build(
    settings: Configuration,
    base: Path,
    verdict_sinks: Sequence[VerdictSink],
    on_failure: contextlib.ExitStack,
) -> Service:
    models = {name: check_recipe(recipe) for name, recipe in settings.recipes.items()}
    for camera in settings.cameras.values():
        source(camera.url, base)  # a mistake in a URL is one of the configuration
    road = plc_road(settings)
    state_dir.make(settings.state_dir)
    claim = on_failure.enter_context(state_dir.claim(settings.state_dir))
    ledger = Ledger(settings.state_dir / "ledger")
    line = Line(settings.site, settings.line)
    places = {
        name: Place(ledger.account(name), models, camera.mm_per_px)
        for name, camera in settings.cameras.items()
    }

    rooms = {name: Room.of(camera) for name, camera in settings.cameras.items()}
    ring = make_ring(rooms)
    on_failure.callback(ring.close)
    quotas, first = {}, 0
    for name, room in rooms.items():
        quotas[name] = Quota(range(first, first + room.slots))
        first += room.slots

    def release(frame: Frame) -> None:
        quotas[frame.exposure.id.camera].release(frame.slot)

    def kind_of(frame: Frame) -> Kind:
        return frame.recipe, frame.format

    def lend(frame: Frame) -> int | None:
        return quotas[frame.exposure.id.camera].take(wait=False)

    async def start_worker() -> WorkerHandle:
        return await WorkerHandle.start(ring, load_of(settings))

    outbox = Outbox(
        settings.state_dir / "outbox.sqlite", settings.outbox.max_bytes,
        settings.outbox.max_age_hours,
    )  # fmt: skip
    evidence = Evidence(settings.evidence.folder, settings.state_dir / "aside", ring)
    sinks = list(verdict_sinks)
    publish = Publish(line, ledger.next_epoch(), places, sinks, outbox)

    def picture(frame: Frame, result: Result) -> str | None:
        return evidence.keep(frame, result.regions)

    def set_aside(frame: Frame, pixels: Pixels) -> None:
        name = frame.exposure.id
        publish.set_aside(name, evidence.set_aside(name, pixels))

    def switched(change: Switched) -> None:
        log.info("model changed", **asdict(change))
        publish.of_line("model_changed", asdict(change))
        if plc is not None:
            plc.show()

    judge = Judge(publish.verdict, publish.late_defect, picture)
    recipes = Recipes(
        models, {name: camera.recipe for name, camera in settings.cameras.items()}, switched
    )
    # One batch under way and its own: so a frame of the least patient camera is in time.
    longest_ns = min(camera.deadline_ms for camera in settings.cameras.values()) * 1e6 / 2
    queue = BatchQueue(settings.worker.batch_frames, kind_of, longest_ns)
    second_tries = SecondTries(ring, lend, set_aside)
    score = Score(ring, queue, judge, kind_of, release, start_worker, second_tries)
    admit = Admit(judge, queue, score, publish, recipes, release)
    ingests = [
        Ingest(
            Camera(line.name, name, int(camera.deadline_ms * 1e6), _maker(camera.url, base)),
            ring, quotas[name], ledger, places[name].account, admit,
        )
        for name, camera in settings.cameras.items()
    ]  # fmt: skip
    plc = None if road is None else _plc(settings, road, ingests, score, judge, recipes, publish)
    if plc is not None:
        sinks.insert(0, plc)  # before all others: it is the gate that waits
    sink = JsonLinesSink(settings.events.jsonl or settings.state_dir / "events.jsonl")
    return Service(
        Parts(
            claim=claim,
            line=line,
            ledger=ledger,
            ring=ring,
            ingests=ingests,
            score=score,
            judge=judge,
            publish=publish,
            recipes=recipes,
            plc=plc,
            outbox=outbox,
            drainer=Drain(outbox, sink),
            sink=sink,
            evidence=evidence,
            drain_seconds=settings.drain_seconds,
        )
    )


def _plc(
    settings: Configuration,
    road: MqttRoad,
    ingests: Sequence[Ingest],
    score: Score,
    judge: Judge,
    recipes: Recipes,
    publish: Publish,
) -> Plc:
    numbers = settings.camera_numbers()
    pulse = Pulse(
        {numbers[ingest.camera.name]: partial(getattr, ingest, "up") for ingest in ingests},
        scores=lambda: score.alive,
        judges=lambda: not judge.overdue(time.monotonic_ns() - PERIOD_MS * 1_000_000),
    )

    def alarm(found: Disagreement) -> None:
        publish.of_line("alarm", asdict(found))

    return Plc(road, pulse, Reconciliation(settings.cameras), recipes, numbers, alarm)


def plc_road(settings: Configuration) -> MqttRoad | None:
    """None where there is no PLC. Raises UsageError where the road could not even be tried."""
    mqtt = settings.mqtt
    if mqtt.host is None:
        return None
    for key in ("ca_file", "cert_file", "key_file"):
        file = getattr(mqtt, key)
        if file is not None and not file.is_file():
            raise ConfigurationError(
                "does not exist", key=f"mqtt.{key}", value=str(file), expected="a PEM file"
            )
    tls = None if mqtt.ca_file is None else Tls(mqtt.ca_file, mqtt.cert_file, mqtt.key_file)
    return MqttRoad(
        MqttSettings(
            host=mqtt.host,
            port=mqtt.port,
            base=mqtt.base.rstrip("/"),
            client_id=f"clearline-{settings.site}-{settings.line}",
            username=mqtt.username,
            password=None if mqtt.password_file is None else _secret(mqtt.password_file),
            tls=tls,
            byte_order=mqtt.byte_order,
            json=mqtt.verdicts_as_json,
            parts_from_plc=mqtt.parts_from_plc,
        ),
        settings.camera_numbers(),
    )


def _secret(file: Path) -> str:
    """The first line of a file that only the service should be able to read."""
    try:
        return file.read_text().splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ConfigurationError(
            "cannot be read", file=file, key="mqtt.password_file", expected="a line with the secret"
        ) from error


def load_of(settings: Configuration) -> Load:
    recipes = tuple(
        RecipeFiles(name, str(recipe.bundle), str(recipe.calibration_path))
        for name, recipe in settings.recipes.items()
    )
    return Load(recipes, settings.worker.device)


def _maker(url: str, base: Path) -> Callable[[], FrameSource]:
    return lambda: source(url, base)
