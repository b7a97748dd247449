"""Whether a frame can be judged in time: what service took so far, and what is queued before it."""

from dataclasses import dataclass, field

from adapters.ports import FrameFormat

NEWEST = 0.2  # weight of the newest batch in the running mean

Kind = tuple[str, FrameFormat]
"""A recipe and a frame's size: what costs alike."""


@dataclass
class ServiceTimes:
    """Nanoseconds that the worker takes for one frame of a kind; 0 until one was measured."""

    _mean: dict[Kind, float] = field(default_factory=dict)

    def observe(self, kind: Kind, frames: int, took_ns: int) -> None:
        each = took_ns / frames
        before = self._mean.get(kind, each)
        self._mean[kind] = before + NEWEST * (each - before)

    def per_frame_ns(self, kind: Kind) -> float:
        return self._mean.get(kind, 0.0)
