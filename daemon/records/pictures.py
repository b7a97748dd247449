"""The pictures of one frame: which there are, how they are drawn, what they say of themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import clearline
from adapters.evidence_files import Box, Kind, Provenance, Record, pixels_hash, stem
from adapters.image_files import write_described
from adapters.ports import Frame
from daemon.records.buffers import Buffer
from daemon.worker.protocol import Result
from model.picture import cut_out, heat_shape, side_by_side

Format = Literal["png", "jpeg", "none"]
_SUFFIXES: Mapping[Format, str] = {"png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of a defect, and how much of it."""

    frames: Format
    """Whole frames as they were scored: PNG is lossless. JPEG has no 16 bits: such frames are PNG
    then as well."""
    crops: Format
    """What a person looks at: the surroundings of the regions, their heat map, their outlines."""
    max_bytes: int
    max_age_hours: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame's copy on its way to the disk."""

    frame: Frame
    result: Result | None
    """None: the frame was never judged, and its picture is kept as the camera gave it."""
    device: str | None
    provenance: Provenance
    files: Mapping[Kind, Path]
    buffer: Buffer
    """The pixels, and behind them the heat map."""

    @property
    def pixels(self) -> NDArray[Any]:
        form = self.frame.format
        return np.ndarray(form.shape, form.dtype, self.buffer)

    @property
    def heat(self) -> NDArray[np.uint8]:
        form = self.frame.format
        return np.ndarray(heat_shape(form.height, form.width), np.uint8, self.buffer, form.nbytes)


def room_for(frame: Frame) -> int:
    """Bytes of its buffer."""
    rows, columns = heat_shape(frame.format.height, frame.format.width)
    return frame.format.nbytes + rows * columns


def files_of(frame: Frame, keeping: Keeping, folder: Path) -> dict[Kind, Path]:
    """Where the pictures of a defect will be, in the order in which they are written."""
    name = stem(frame.exposure.id)
    files: dict[Kind, Path] = {}
    if keeping.crops != "none":
        files["crop"] = folder / f"{name}.crop{_SUFFIXES[keeping.crops]}"
    if keeping.frames != "none":
        frames = "png" if frame.format.dtype == "uint16" else keeping.frames
        files["frame"] = folder / f"{name}.frame{_SUFFIXES[frames]}"
    if files:
        files["heat"] = folder / f"{name}.heat.png"
    return files


def write(waiting: Waiting) -> Iterator[Path]:
    """Each picture as soon as it stands there. One that fails keeps none of the others from being
    written: only then is the first error raised, a PictureError where it is the file's."""
    text = record_of(waiting).text()
    failed: list[Exception] = []
    for kind, path in waiting.files.items():
        try:
            write_described(path, _drawn(waiting, kind), text)
        except Exception as error:  # noqa: BLE001 (raised below)
            failed.append(error)
        else:
            yield path
    if failed:
        raise failed[0]


def record_of(waiting: Waiting) -> Record:
    exposure, result = waiting.frame.exposure, waiting.result
    regions = () if result is None else result.regions
    return Record(
        event_id=str(exposure.id),
        camera=exposure.id.camera,
        epoch=exposure.id.epoch,
        sequence=exposure.id.sequence,
        exposed_ms=exposure.wall_ns // 1_000_000,
        score=None if result is None else result.score,
        threshold=None if result is None else result.threshold,
        recipe=waiting.frame.recipe,
        device=waiting.device,
        regions=tuple(Box(**asdict(region)) for region in regions),
        pixels=pixels_hash(waiting.pixels),
        provenance=waiting.provenance,
        version=clearline.__version__,
    )


def _drawn(waiting: Waiting, kind: Kind) -> NDArray[Any]:
    if kind == "heat":
        return waiting.heat[:, :, None]
    if kind == "frame" or waiting.result is None:
        return waiting.pixels
    return side_by_side(*cut_out(waiting.pixels, waiting.heat, waiting.result.regions))
