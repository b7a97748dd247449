"""The contracts at the daemon's edge: what comes in (frames), what goes out (verdicts, events).

All times named `_ns` are nanoseconds; `exposed_ns` and the deadlines run on CLOCK_MONOTONIC, so a
step of the wall clock changes nothing. `wall_ns` is Unix time and only ever printed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Pixels = NDArray[Any]
"""A picture in uint8 or uint16, always (height, width, channels), channels 1 (gray) or 3 (RGB)."""


class Outcome(StrEnum):
    OK = "ok"
    DEFECT = "defect"
    UNINSPECTED = "uninspected"


class Reason(StrEnum):
    """Why a frame is uninspected. The gate stays closed for every one of them."""

    LATE = "late"
    OVERLOAD = "overload"
    CAMERA_GAP = "camera_gap"
    CORRUPT = "corrupt"
    INCOMPLETE = "incomplete"
    IMAGE_QUALITY = "image_quality"
    INVALID_SCORE = "invalid_score"
    WORKER_RESTART = "worker_restart"
    DAEMON_RESTART = "daemon_restart"
    CHANGEOVER = "changeover"
    SHUTDOWN = "shutdown"
    NO_MODEL = "no_model"


@dataclass(frozen=True, slots=True)
class FrameFormat:
    height: int
    width: int
    channels: Literal[1, 3]
    dtype: Literal["uint8", "uint16"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def nbytes(self) -> int:
        return self.height * self.width * self.channels * (2 if self.dtype == "uint16" else 1)

    @staticmethod
    def of(pixels: Pixels) -> "FrameFormat":
        height, width, channels = pixels.shape
        return FrameFormat(height, width, 3 if channels == 3 else 1, _DTYPES[pixels.dtype.itemsize])


_DTYPES: dict[int, Literal["uint8", "uint16"]] = {1: "uint8", 2: "uint16"}


@dataclass(frozen=True, slots=True)
class Shot:
    """What a camera knows of one exposure, besides its pixels."""

    sequence: int
    """The camera's own frame number, unwrapped; else our count within this connection."""
    exposed_ns: int
    clock: Literal["host", "ptp"] = "host"
    uncertainty_ns: int = 0
    part: int = 0
    """Trigger count or encoder position; 0 where the camera gives none."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot of the ring, lent to a source to write one frame into."""

    slot: int
    pixels: Pixels


class Intake(Protocol):
    """The ingest station as a source sees it. Called from the source's own thread only."""

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        """A slot for one frame. None: the quota is used up (`wait=False`) or the line stops.

        Raises SourceError where the frame is larger than the camera's slots.
        """

    def arrived(self, shot: Shot, lease: Lease) -> None:
        """The frame stands in its slot."""

    def unseen(self, shot: Shot, reason: Reason) -> None:
        """An exposure happened, but its picture is not to be had."""


class FrameSource(Protocol):
    """A camera. `stream` blocks a thread that belongs to it; `stop` may come from any thread."""

    @property
    def counts_on(self) -> bool:
        """Its frame numbers begin at 0 and go on while nobody is connected, so that what was missed
        is known."""

    def stream(self, intake: Intake) -> None:
        """Open, deliver frames, return when the far end has no more or `stop` was called.

        Raises SourceError where the camera cannot be opened or no longer answers.
        """

    def stop(self) -> None:
        """Make `stream` return soon, also where it waits."""


@dataclass(frozen=True, slots=True)
class FrameId:
    """Which picture: one connection of one camera is an epoch, and no epoch ever repeats."""

    line: str
    camera: str
    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.line}/{self.camera}/{self.epoch}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposure as the line accounts for it, whether or not its picture is to be had."""

    id: FrameId
    exposed_ns: int
    wall_ns: int
    """The same moment in Unix time."""
    deadline_ns: int
    part: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture in the ring on its way through the stations."""

    exposure: Exposure
    format: FrameFormat
    slot: int
    change: float | None = None
    """From the most alike of its camera's last frames (`model.change`); None where none was."""
    recipe: str = ""
    """Which model judges it; set once, at ADMIT."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one exposure, once."""

    exposure: Exposure
    outcome: Outcome
    reason: Reason | None
    score: float | None
    """The largest value of the defect map; None where nothing was scored."""
    threshold: float | None
    decided_ns: int
    recipe: str = ""
    """Whose model judged; empty where none did."""

    @property
    def latency_ms(self) -> float:
        """Exposure to decision."""
        return (self.decided_ns - self.exposure.exposed_ns) / 1e6


EventType = Literal["clearline.defect.v1", "clearline.camera.v1", "clearline.line.v1"]


@dataclass(frozen=True, slots=True)
class Event:
    """What the plant is told: CloudEvents' attributes and a flat JSON object."""

    id: str
    type: EventType
    source: str
    subject: str
    key: str
    wall_ns: int
    data: Mapping[str, Any]
    sequence: str | None = None
    """Where it stands among the events of its source; orders as text."""


class VerdictSink(Protocol):
    """Someone who is told every verdict at once. Must not block: it runs on the event loop."""

    def tell(self, verdict: Verdict) -> None: ...


class MachineState(IntEnum):
    """OPC 40100-1 VisionStateMachine, as far as a line of ours is ever in it."""

    HALTED = 2
    ERROR = 3
    READY = 6
    CONTINUOUS_EXECUTION = 8


@dataclass(frozen=True, slots=True)
class Beat:
    """That the line is alive; every `period_ms`."""

    state: MachineState
    counter: int
    """Moves only while capture, scoring and judging do, or while there is nothing to do."""
    cameras_ok: int
    """Bit n: the camera of number n + 1 shows frames."""
    verdicts: int
    """Since the start."""
    period_ms: int
    p99_ms: float
    """Exposure to decision, of the last frames judged."""


@dataclass(frozen=True, slots=True)
class PartTold:
    """The PLC saw a part: the number it gave it, and its count of camera triggers."""

    part: int
    triggers: int


@dataclass(frozen=True, slots=True)
class LineTold:
    """The PLC's own counts since its start, once a second."""

    run: bool
    recipe: str
    """Empty where it chooses none."""
    parts: int
    accepted: int
    rejected_defect: int
    rejected_silent: int
    last_msg_no: tuple[int, ...]
    """Of each camera, by its number; what it heard last."""


class PlcRoad(VerdictSink, Protocol):
    """The way to the PLC: verdicts and beats out, its parts and counts in. On the event loop."""

    async def run(self, hear: Callable[[PartTold | LineTold], None]) -> None:
        """Until cancelled: connect, stay connected, come back."""

    def beat(self, beat: Beat) -> None:
        """Send it now or never."""

    def msg_nos(self) -> Mapping[str, int]:
        """Of the last verdict told, by camera; those that never left are counted as well."""

    def state(self, state: Mapping[str, Any]) -> None:
        """What the retained state says from now on, besides `online`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that the far end will never take, however often it is sent."""

    event: Event
    reason: str


class EventSink(Protocol):
    """Someone who receives events from the outbox, at least once, in order of each key."""

    async def send(self, events: Sequence[Event]) -> Sequence[Refusal]:
        """Returns when all of them are safe at the far end, but for those that it refused.

        Raises SinkError where it is not known, or nobody is there: all of them are sent again.
        """

    async def ready(self) -> None:
        """Raises SinkError where it would take nothing now: asked before a line is started."""

    async def close(self) -> None:
        """Bounded, whatever state the far end is in."""
