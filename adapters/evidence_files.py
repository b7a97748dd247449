"""Evidence on disk: how its pictures are called, and what each of them says of itself.

left-7-00000012.crop.jpg    what a person looks at: camera, epoch and sequence are the frame's
left-7-00000012.frame.png   the whole frame as it was scored
left-7-00000012.heat.png    its heat map, gray, a fourth of its sides
left-7-00000012.png         a frame set aside without a score, as the camera gave it
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from adapters.errors import ImageFileError
from adapters.image_files import read_description
from adapters.ports import FrameId, Pixels

Kind = Literal["crop", "frame", "heat"]
SUFFIXES = (".png", ".jpg")
_NAME = re.compile(
    r"([a-z0-9][a-z0-9_-]*-[0-9]+-[0-9]{8,})(?:\.crop|\.frame|\.heat)?(?:\.png|\.jpg)"
)
_EVENT = re.compile(r"([^/]+)/([a-z0-9][a-z0-9_-]*)/([0-9]{1,20})/([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who judged. The hashes are SHA-256, whole, of what stood when the line started."""

    model: str
    bundle: str
    calibration: str
    configuration: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Box:
    """A region over the threshold, in pixels of the whole frame."""

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float


@dataclass(frozen=True, slots=True)
class Record:
    """What a picture says of the frame that it shows."""

    event_id: str
    camera: str
    epoch: int
    sequence: int
    exposed_ms: int
    """Unix time."""
    score: float | None
    """None, as threshold and device are: nothing was scored."""
    threshold: float | None
    recipe: str
    device: str | None
    regions: tuple[Box, ...]
    pixels: str
    """Of the whole frame as it was scored; see `pixels_hash`."""
    provenance: Provenance
    version: str
    """Clearline's own."""

    def text(self) -> str:
        """JSON in ASCII, as Exif has it."""
        return json.dumps(asdict(self))


def stem(frame: FrameId) -> str:
    """What the names of all pictures of one frame begin with."""
    return f"{frame.camera}-{frame.epoch}-{frame.sequence:08d}"


def stem_of(name: str) -> str | None:
    """None where a file of this name is none of ours."""
    match = _NAME.fullmatch(name)
    return None if match is None else match[1]


def frame_of(event_id: str) -> FrameId | None:
    """The frame of a defect event's id; None where it is no such id."""
    match = _EVENT.fullmatch(event_id)
    if match is None:
        return None
    line, camera, epoch, sequence = match.groups()
    return FrameId(line, camera, int(epoch), int(sequence))


def pixels_hash(pixels: Pixels) -> str:
    """SHA-256 of shape, type and content."""
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as `Provenance` has the calibration's. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_record(path: Path) -> Record:
    """Raises ImageFileError where the picture cannot be read, or says nothing of itself."""
    text = read_description(path)
    try:
        return msgspec.json.decode(text or "", type=Record)
    except msgspec.DecodeError as error:
        raise ImageFileError(
            f"does not say how it was judged: {error}", file=path,
            expected="a picture as Clearline's evidence holds it",
        ) from error  # fmt: skip
