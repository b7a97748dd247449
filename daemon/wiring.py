"""Who is who: puts the parts of a line together."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import structlog

from adapters.evidence_files import Provenance, file_hash
from adapters.ports import Event, Frame, FrameSource, Pixels, VerdictSink
from adapters.sinks.mqtt import MqttRoad
from daemon import edges, events
from daemon.config import Configuration, RecipeSettings
from daemon.deadlines import Kind
from daemon.drift import DriftWatch
from daemon.events import Line, Model
from daemon.plc import Plc
from daemon.pulse import PERIOD_MS, Pulse
from daemon.recipes import Recipes, Switched
from daemon.records import outbox_report, state_dir
from daemon.records.drain import Drain
from daemon.records.evidence import Evidence, References
from daemon.records.ledger import Ledger
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import Damage, Shed
from daemon.records.pictures import Keeping
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
from model.calibration import Histogram

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a recipe without torch."""

    provenance: Provenance
    histogram: Histogram

    @property
    def model(self) -> Model:
        said = self.provenance
        return Model(said.model, said.bundle[:8], said.calibration[:8])


def read_recipe(recipe: RecipeSettings, configuration: str) -> Known:
    """Reads all of its files. `configuration`: the hash of what is in effect.

    Raises BundleError, CalibrationError.
    """
    bundle = bundles.load(recipe.bundle)
    file = recipe.calibration_path
    calibration = calibrations.load(file)
    calibration.require(bundle.hash, calibration.dtype, file)
    name, dtype = recipe.bundle.stem, calibration.dtype
    provenance = Provenance(name, bundle.hash, file_hash(file), configuration, dtype)
    return Known(provenance, calibration.histogram)


def read_recipes(settings: Configuration) -> dict[str, Known]:
    """All of them, by name. Raises as `read_recipe` does."""
    hashed = configuration_hash(settings)
    return {name: read_recipe(recipe, hashed) for name, recipe in settings.recipes.items()}


def configuration_hash(settings: Configuration) -> str:
    """SHA-256 of all settings in effect, wherever they come from. Secrets are files, not in it."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()


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
    hashed = configuration_hash(settings)
    known = read_recipes(settings)
    models = {name: recipe.model for name, recipe in known.items()}
    for camera in settings.cameras.values():
        edges.source(camera.url, base)  # a mistake in a URL is one of the configuration
    road = edges.plc_road(settings)
    event_sinks = edges.event_sinks(settings)
    state_dir.make(settings.state_dir)
    claims = [on_failure.enter_context(state_dir.claim(settings.state_dir))]
    pictures = settings.evidence.folder
    if pictures is not None:
        state_dir.make(pictures, "evidence.folder")
        claims.append(on_failure.enter_context(state_dir.claim(pictures, "evidence.folder")))
    ledger = Ledger(settings.state_dir / "ledger")
    line = Line(settings.site, settings.line, hashed[:8])
    places = {
        name: Place(ledger.account(name), models, camera.mm_per_px, camera.line_scan)
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
        evidence.take(frame, lambda: quotas[frame.exposure.id.camera].release(frame.slot))

    def kind_of(frame: Frame) -> Kind:
        return frame.recipe, frame.format

    def lend(frame: Frame) -> int | None:
        return quotas[frame.exposure.id.camera].take(wait=False)

    load = load_of(settings, known)

    async def start_worker() -> WorkerHandle:
        return await WorkerHandle.start(ring, load)

    outbox = Outbox(
        settings.state_dir / outbox_report.NAME, settings.outbox.max_bytes,
        settings.outbox.max_age_hours, list(event_sinks), settings.outbox.shed_first,
    )  # fmt: skip
    on_failure.callback(outbox.close)
    keeping = Keeping(
        settings.evidence.frames, settings.evidence.crops, settings.evidence.max_bytes,
        settings.evidence.max_age_hours,
    )  # fmt: skip
    evidence = Evidence(
        pictures, keeping, settings.state_dir / "aside", ring,
        {name: recipe.provenance for name, recipe in known.items()},
    )  # fmt: skip
    on_failure.callback(evidence.close)
    if pictures is not None and state_dir.share_a_disk(pictures, settings.state_dir):
        outbox.on_no_disk = evidence.give_way
    drift = DriftWatch({name: recipe.histogram for name, recipe in known.items()})
    sinks: list[VerdictSink] = [*verdict_sinks, drift]
    connected = None if road is None else lambda: road.connected
    publish = Publish(line, ledger.next_epoch(), places, sinks, outbox, connected)
    outbox.losses.announce = partial(_lost, publish)

    def keep(frame: Frame, result: Result) -> References | None:
        return evidence.keep(frame, result, "" if score.worker is None else score.worker.device)

    def set_aside(frame: Frame, pixels: Pixels) -> None:
        publish.set_aside(frame.exposure.id, evidence.set_aside(frame, pixels))

    def switched(change: Switched) -> None:
        log.info("model changed", **asdict(change))
        publish.of_line("model_changed", asdict(change))
        if plc is not None:
            plc.show()

    judge = Judge(publish.verdict, publish.late_defect, keep)
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
    drains = {name: Drain(outbox, name, sink) for name, sink in event_sinks.items()}
    return Service(
        Parts(
            claims=claims,
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
            drains=drains,
            evidence=evidence,
            drift=drift,
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


def _lost(publish: Publish, loss: Shed | Damage) -> Event:
    """Outbox's thread."""
    if isinstance(loss, Shed):
        return publish.line_event("shed", events.shed(loss))
    return publish.line_event("outbox_replaced", events.outbox_replaced(loss))


def load_of(settings: Configuration, known: Mapping[str, Known]) -> Load:
    recipes = tuple(
        RecipeFiles(
            name, str(recipe.bundle), str(recipe.calibration_path),
            known[name].provenance.bundle, known[name].provenance.calibration,
        )
        for name, recipe in settings.recipes.items()
    )  # fmt: skip
    return Load(recipes, settings.worker.device)


def _maker(url: str, base: Path) -> Callable[[], FrameSource]:
    return lambda: edges.source(url, base)
