"""What the daemon and the worker say to each other, one message a packet (SEQPACKET, msgpack)."""

import socket

import msgspec

from adapters.ports import FrameFormat
from model.judgement import Judgement
from model.regions import Region

PACKET = 1 << 18
"""Bytes of the largest message: 64 frames with 16 regions each take a quarter of it."""


BEAT_SECONDS = 0.1


class RecipeFiles(msgspec.Struct, frozen=True):
    name: str
    bundle: str
    calibration: str
    bundle_hash: str
    """SHA-256, as the daemon read it: what lies there now may be another one."""
    calibration_hash: str


class Load(msgspec.Struct, frozen=True, tag=True):
    """The daemon's first word."""

    recipes: tuple[RecipeFiles, ...]
    device: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Every recipe is resident and reproduced its golden patches."""

    device: str


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Said every BEAT_SECONDS by a thread of its own, also while a batch is scored."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker's last word: it cannot serve; `problem` is one line for the user."""

    problem: str


class FrameRef(msgspec.Struct, frozen=True):
    """Where a frame lies in the ring, in bytes, and where its heat map goes."""

    pixels: int
    heat: int
    format: FrameFormat
    change: float | None
    """From the most alike of the camera's last frames."""


class Score(msgspec.Struct, frozen=True, tag=True):
    batch: int
    recipe: str
    frames: tuple[FrameRef, ...]


class Result(msgspec.Struct, frozen=True):
    score: float
    """The largest value of the defect map; may be NaN or infinite."""
    threshold: float
    judgement: Judgement
    regions: tuple[Region, ...]
    """Over the threshold; their heat map then stands in the frame's slot."""


class Scored(msgspec.Struct, frozen=True, tag=True):
    batch: int
    results: tuple[Result, ...]
    """In the order of the frames."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The recipe's model cannot score frames of this size or colour."""

    batch: int
    problem: str


ToWorker = Load | Score
FromWorker = Ready | Alive | Failed | Scored | Refused

encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of the control connection; the end of file comes 1 ms after a kill."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET)
    return ours, theirs
