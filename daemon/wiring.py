"""Who is who: the only file that names concrete adapters and puts the parts together."""

import contextlib
import fcntl
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from adapters.errors import SourceUrlError
from adapters.ports import Frame, FrameSource, VerdictSink
from adapters.sinks.jsonl import JsonLinesSink
from adapters.sources.product import SimulatedProduct
from adapters.sources.replay import ReplaySource
from adapters.sources.simulated import SimulatedSource
from adapters.url import CameraUrl
from daemon.config import CameraSettings, Configuration, RecipeSettings
from daemon.deadlines import Kind
from daemon.errors import ConfigurationError, StateError
from daemon.events import Line, Model
from daemon.records.drain import Drain
from daemon.records.evidence import Evidence
from daemon.records.ledger import Ledger
from daemon.records.outbox import Outbox
from daemon.service import Parts, Service
from daemon.stations.admit import Admit
from daemon.stations.batch import BatchQueue
from daemon.stations.ingest import Camera, Ingest
from daemon.stations.judge import Judge
from daemon.stations.publish import Place, Publish
from daemon.stations.score import Score
from daemon.worker.handle import WorkerHandle
from daemon.worker.protocol import Load, RecipeFiles, Result
from daemon.worker.ring import Quota, Ring
from model import bundle as bundles
from model import calibration as calibrations

SPARE_SLOTS = 3  # of each camera: being filled, being scored, being judged


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


_SOURCES: dict[str, Callable[[CameraUrl, Path], FrameSource]] = {
    "replay": _replay,
    "simulated": _simulated,
}


@dataclass(frozen=True, slots=True)
class Room:
    """What a camera takes of the ring."""

    slots: int
    frame_bytes: int

    @staticmethod
    def of(camera: CameraSettings) -> "Room":
        slots = math.ceil(camera.max_fps * camera.deadline_ms / 1000) + SPARE_SLOTS
        return Room(slots, camera.max_frame_bytes)


def check_recipe(recipe: RecipeSettings) -> Model:
    """Reads all of the recipe's files, without torch. Raises BundleError, CalibrationError."""
    bundle = bundles.load(recipe.bundle)
    calibration = calibrations.load(recipe.calibration_path)
    calibration.require(bundle.hash, calibration.dtype, recipe.calibration_path)
    return Model(recipe.bundle.stem, bundle.hash[:8])


def make_state_dir(path: Path) -> None:
    """Raises StateError where the folder cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise StateError(
            f"cannot be written to: {reason}", file=path, key="state_dir",
            expected="a writable folder",
        ) from error  # fmt: skip


def claim_state_dir(path: Path) -> IO[bytes]:
    """Held for as long as the line lives: two of them would each close the other's frames as lost.

    Raises StateError where another one holds it.
    """
    claim = (path / "claim").open("ab")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        claim.close()
        raise StateError(
            "is in use by another line", file=path, key="state_dir", expected="a folder of its own"
        ) from error
    return claim


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
    make_state_dir(settings.state_dir)
    claim = on_failure.enter_context(claim_state_dir(settings.state_dir))
    ledger = Ledger(settings.state_dir / "ledger")
    line = Line(settings.site, settings.line)
    places = {
        name: Place(ledger.account(name), models[camera.recipe], camera.mm_per_px)
        for name, camera in settings.cameras.items()
    }

    rooms = {name: Room.of(camera) for name, camera in settings.cameras.items()}
    ring = _ring(rooms)
    on_failure.callback(ring.close)
    quotas, first = {}, 0
    for name, room in rooms.items():
        quotas[name] = Quota(range(first, first + room.slots))
        first += room.slots

    def release(frame: Frame) -> None:
        quotas[frame.exposure.id.camera].release(frame.slot)

    def kind_of(frame: Frame) -> Kind:
        return settings.cameras[frame.exposure.id.camera].recipe, frame.format

    async def start_worker() -> WorkerHandle:
        return await WorkerHandle.start(ring, _load(settings))

    outbox = Outbox(
        settings.state_dir / "outbox.sqlite", settings.outbox.max_bytes,
        settings.outbox.max_age_hours,
    )  # fmt: skip
    folder = settings.evidence.folder
    evidence = None if folder is None else Evidence(folder, ring)

    def picture(frame: Frame, result: Result) -> str | None:
        return None if evidence is None else evidence.keep(frame, result.regions)

    publish = Publish(line, places, verdict_sinks, outbox)
    judge = Judge(publish.verdict, publish.late_defect, picture)
    queue = BatchQueue(settings.worker.batch_frames, kind_of)
    score = Score(ring, queue, judge, kind_of, release, start_worker)
    admit = Admit(judge, queue, score, publish, release)
    ingests = [
        Ingest(
            Camera(line.name, name, int(camera.deadline_ms * 1e6), _maker(camera.url, base)),
            ring, quotas[name], ledger, places[name].account, admit,
        )
        for name, camera in settings.cameras.items()
    ]  # fmt: skip
    sink = JsonLinesSink(settings.events.jsonl or settings.state_dir / "events.jsonl")
    return Service(
        Parts(
            claim=claim,
            line=line,
            run_number=ledger.next_epoch(),
            ledger=ledger,
            ring=ring,
            ingests=ingests,
            score=score,
            judge=judge,
            publish=publish,
            outbox=outbox,
            drainer=Drain(outbox, sink),
            sink=sink,
            evidence=evidence,
            drain_seconds=settings.drain_seconds,
        )
    )


def ring_bytes(rooms: Mapping[str, Room]) -> int:
    """Of pixels. Raises ConfigurationError where this machine has not so much to spare: the kernel
    would not refuse, it would end some process instead."""
    wanted, available = sum(r.slots * r.frame_bytes for r in rooms.values()), _available_bytes()
    if wanted > available:
        raise ConfigurationError(
            "is more memory than this machine has to spare",
            key="cameras: slots x max_frame_bytes",
            value=f"{wanted >> 20} MiB",
            expected=f"under {available >> 20} MiB: shorter deadlines, a lower max_fps",
        )
    return wanted


def _ring(rooms: Mapping[str, Room]) -> Ring:
    wanted = ring_bytes(rooms)
    try:
        return Ring.create([r.frame_bytes for r in rooms.values() for _ in range(r.slots)])
    except OSError as error:
        raise ConfigurationError(
            f"cannot be reserved: {error.strerror}",
            key="cameras: slots x max_frame_bytes",
            value=f"{wanted >> 20} MiB",
            expected="memory to spare",
        ) from error


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _load(settings: Configuration) -> Load:
    recipes = tuple(
        RecipeFiles(name, str(recipe.bundle), str(recipe.calibration_path))
        for name, recipe in settings.recipes.items()
    )
    return Load(recipes, settings.worker.device)


def _maker(url: str, base: Path) -> Callable[[], FrameSource]:
    return lambda: source(url, base)
