"""How much of the ring each camera gets, and whether this machine has so much to spare."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.config import CameraSettings
from daemon.errors import ConfigurationError
from daemon.worker.ring import Ring

SPARE_SLOTS = 3  # of each camera: being filled, being scored, being judged


@dataclass(frozen=True, slots=True)
class Room:
    """What a camera takes of the ring."""

    slots: int
    frame_bytes: int

    @staticmethod
    def of(camera: CameraSettings) -> "Room":
        slots = math.ceil(camera.max_fps * camera.deadline_ms / 1000) + SPARE_SLOTS
        return Room(slots, camera.max_frame_bytes)


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


def make_ring(rooms: Mapping[str, Room]) -> Ring:
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
