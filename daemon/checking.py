"""`clearline check`: can this configuration be run, and can this machine give what it asks for?

Each camera is opened and shows one frame; the worker scores frames of that size, by every recipe,
in batches as the line would. Nothing is measured in a state folder that a running line holds: a
second worker would take its time, and a second listener its frames.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from adapters.errors import SinkError, SourceError
from adapters.ports import EventSink, FrameFormat, FrameSource, Lease, Pixels, Reason, Shot
from daemon import config, edges, wiring
from daemon.config import Configuration
from daemon.errors import ConfigurationError, StateError, WorkerError
from daemon.records import state_dir
from daemon.worker.handle import WorkerHandle
from daemon.worker.protocol import FrameRef, FromWorker, Refused
from daemon.worker.protocol import Score as ScoreRequest
from daemon.worker.ring import Ring
from daemon.worker.rooms import Room, make_ring, ring_bytes

PICTURE_SECONDS = 10.0
"""So long a camera may take to show a picture."""
WARM_UP = 2  # batches that are not counted
MEASURE_SECONDS = 1.0  # of each recipe, frame format and batch size
LEAST = 3  # batches, where each is slow


@dataclass(frozen=True, slots=True)
class Service:
    """What one frame takes, in milliseconds."""

    alone: float
    in_batch: float
    """Of `batch` frames."""
    batch: int

    def within(self, deadline_ms: float) -> float:
        """In the largest batch for which there is time: one is under way when a frame comes, and
        then comes its own. What a batch takes lies on the line through the two that were measured.
        """
        slope = (self.in_batch * self.batch - self.alone) / max(1, self.batch - 1)
        for frames in range(self.batch, 1, -1):
            takes = self.alone + slope * (frames - 1)
            if 2 * takes <= deadline_ms:
                return takes / frames
        return self.alone


def check_line(path: Path) -> dict[str, Any]:
    """What the line asks for, and what it gets. Raises clearline.Error."""
    settings = config.load(path)
    for camera in settings.cameras.values():
        edges.source(camera.url, path.parent)
    models = {name: known.model for name, known in wiring.read_recipes(settings).items()}
    edges.plc_road(settings)
    sinks = edges.event_sinks(settings)
    state_dir.make(settings.state_dir)
    if settings.evidence.folder is not None:
        state_dir.make(settings.evidence.folder, "evidence.folder")
    rooms = {name: Room.of(camera) for name, camera in settings.cameras.items()}
    said: dict[str, Any] = {
        "line": settings.line,
        "state_dir": str(settings.state_dir),
        "ring_mib": round(ring_bytes(rooms) / (1 << 20), 1),
        **{f"recipe {name}": f"{model.name} ({model.hash})" for name, model in models.items()},
        **{
            f"camera {name}": f"{camera.url}, {rooms[name].slots} slots, recipe {camera.recipe}"
            for name, camera in settings.cameras.items()
        },
    }
    said |= asyncio.run(_ready(sinks))
    try:
        claim = state_dir.claim(settings.state_dir)
    except StateError:
        return said | {"load": "not measured: this line is running"}
    with claim:
        return said | _measured(settings, path.parent)


async def _ready(sinks: Mapping[str, EventSink]) -> dict[str, str]:
    """A sink that is away is said and no error: the line starts without it, and events wait."""
    said = {}
    for name, sink in sinks.items():
        try:
            await sink.ready()
            said[f"events to {name}"] = "ready"
        except SinkError as error:
            said[f"events to {name}"] = f"would wait: {error}"
        finally:
            await sink.close()
    return said


def _measured(settings: Configuration, base: Path) -> dict[str, Any]:
    """Raises ConfigurationError where cameras ask for more than the machine gives."""
    pictures = {
        name: _picture(edges.source(camera.url, base), name)
        for name, camera in settings.cameras.items()
    }
    _fits(settings, pictures)
    found = asyncio.run(services(settings, pictures))
    _in_time(settings, found)
    # Batches mix cameras: the least patient of them says how large they may be.
    deadline_ms = min(camera.deadline_ms for camera in settings.cameras.values())
    takes = {name: service.within(deadline_ms) for name, service in found.items()}
    load = sum(settings.cameras[name].max_fps * ms / 1000 for name, ms in takes.items())
    asked = ", ".join(
        f"{name} {settings.cameras[name].max_fps:g} frames/s x {ms:.1f} ms"
        for name, ms in takes.items()
    )
    if load > 1:
        raise ConfigurationError(
            f"is more than this machine was measured to give ({asked})",
            key="cameras: max_fps x milliseconds a frame", value=f"{load:.0%}",
            expected="at most 100%: fewer frames, smaller ones, or a faster device",
        )  # fmt: skip
    return {
        "load": f"{load:.0%} ({asked})",
        **{f"ms_per_frame {name}": round(ms, 1) for name, ms in takes.items()},
        **{f"ms_alone {n}": round(s.alone, 1) for n, s in found.items()},
    }


def _fits(settings: Configuration, pictures: Mapping[str, Pixels]) -> None:
    for name, pixels in pictures.items():
        room = settings.cameras[name].max_frame_bytes
        if pixels.nbytes > room:
            raise ConfigurationError(
                "is less than a frame of this camera takes",
                key=f"cameras.{name}.max_frame_bytes", value=room,
                expected=f"at least {pixels.nbytes}",
            )  # fmt: skip


def _in_time(settings: Configuration, services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        deadline_ms = settings.cameras[name].deadline_ms
        if service.alone >= deadline_ms:
            raise ConfigurationError(
                "is less than this machine takes for a frame alone",
                key=f"cameras.{name}.deadline_ms", value=deadline_ms,
                expected=f"over {service.alone:.1f}",
            )  # fmt: skip


async def services(settings: Configuration, pictures: Mapping[str, Pixels]) -> dict[str, Service]:
    """Of each camera, by the slowest recipe: the PLC may choose any."""
    largest = max(pixels.nbytes for pixels in pictures.values())
    ring = make_ring({"check": Room(settings.worker.batch_frames, largest)})
    try:
        worker = await WorkerHandle.start(
            ring, wiring.load_of(settings, wiring.read_recipes(settings))
        )
        try:
            found = {}
            for name, pixels in pictures.items():
                each = [
                    await _service(worker, ring, recipe, name, pixels)
                    for recipe in settings.recipes
                ]
                found[name] = Service(
                    max(s.alone for s in each), max(s.in_batch for s in each), len(ring.slots)
                )
            return found
        finally:
            await worker.end()
    finally:
        ring.close()


async def _service(
    worker: WorkerHandle, ring: Ring, recipe: str, camera: str, pixels: Pixels
) -> Service:
    frame = FrameFormat.of(pixels)
    for slot in ring.slots:
        np.copyto(ring.pixels(slot.pixels, frame), pixels)
    refs = tuple(FrameRef(slot.pixels, slot.heat, frame, None) for slot in ring.slots)
    answers: asyncio.Queue[FromWorker] = asyncio.Queue()
    worker.receive = answers.put_nowait

    async def milliseconds(request: ScoreRequest) -> float:
        began = time.perf_counter()
        with contextlib.suppress(OSError):  # it is dying: `gone` follows
            worker.send(request)
        gone = asyncio.ensure_future(worker.gone.wait())
        answer = asyncio.ensure_future(answers.get())
        await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done():
            answer.cancel()
            raise WorkerError(f"scoring process: ended while it scored frames of camera {camera}")
        said = answer.result()
        if isinstance(said, Refused):
            raise ConfigurationError(
                f"shows frames that recipe {recipe} cannot judge: {said.problem}",
                key=f"cameras.{camera}",
            )
        return 1000 * (time.perf_counter() - began) / len(request.frames)

    async def typical(request: ScoreRequest) -> float:
        for _ in range(WARM_UP):
            await milliseconds(request)
        took: list[float] = []
        until = time.perf_counter() + MEASURE_SECONDS
        while len(took) < LEAST or time.perf_counter() < until:
            took.append(await milliseconds(request))
        return median(took)

    return Service(
        alone=await typical(ScoreRequest(0, recipe, refs[:1])),
        in_batch=await typical(ScoreRequest(0, recipe, refs)),
        batch=len(refs),
    )


def _picture(source: FrameSource, camera: str) -> Pixels:
    """The first that the camera shows. Raises SourceError."""
    look = _Look(source)
    thread = threading.Thread(target=look.run, name=f"look-{camera}", daemon=True)
    thread.start()
    thread.join(PICTURE_SECONDS)
    source.stop()
    if look.problem is not None:
        raise SourceError(f"shows no picture: {look.problem}", key=f"cameras.{camera}")
    if look.pixels is None:
        raise SourceError(
            "shows no picture, so that its load is not known", key=f"cameras.{camera}",
            expected=f"one within {PICTURE_SECONDS:g} s",
        )  # fmt: skip
    return look.pixels


class _Look:
    """An intake that wants one picture. In a thread of its own."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.pixels: Pixels | None = None
        self.problem: SourceError | None = None

    def run(self) -> None:
        try:
            self._source.stream(self)
        except SourceError as error:
            self.problem = error

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        return Lease(0, np.empty(frame.shape, frame.dtype))

    def arrived(self, shot: Shot, lease: Lease) -> None:
        self.pixels = lease.pixels
        self._source.stop()

    def unseen(self, shot: Shot, reason: Reason) -> None:
        """The next one may be better."""
