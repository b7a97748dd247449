"""The ledger: what became of every frame, in a memory-mapped file that outlives a kill.

Every field is an aligned 8-byte word with one writer (`received` and `last_received` the camera's
source thread, the rest the event loop), so that a reader in any process, at any moment, and after
any kill, sees whole numbers. In flight is what was received and not decided: never stored, so
never wrong.
"""

import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.ports import FrameId, Outcome, Reason
from daemon.errors import StateError

MAGIC = b"CLRLEDG1"
NAME_BYTES = 64
CAMERAS = 64  # room in the file; a line has a handful
REASONS = tuple(Reason)

_HEADER = np.dtype([("magic", "S8"), ("epochs", "<u8"), ("padding", "V48")])
_RECORD = np.dtype(
    [
        ("name", f"S{NAME_BYTES}"),
        ("received", "<u8"),
        ("ok", "<u8"),
        ("defect", "<u8"),
        ("uninspected", "<u8", (len(REASONS),)),
        ("last_received", "<u8", (2,)),  # epoch, sequence
        ("last_decided", "<u8", (2,)),
    ]
)
SIZE = _HEADER.itemsize + CAMERAS * _RECORD.itemsize


@dataclass(frozen=True, slots=True)
class Counts:
    received: int
    ok: int
    defect: int
    uninspected: dict[Reason, int]
    in_flight: int


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Frames that an earlier run received and never decided, by (epoch, sequence)."""

    camera: str
    after: tuple[int, int]
    """The last frame decided; what came behind it, up to and with `last`, was lost."""
    last: tuple[int, int]
    count: int


class Ledger:
    def __init__(self, path: Path) -> None:
        """Opens the file or makes it. Raises StateError where it is not ours or not writable."""
        self.path = path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(fd).st_size == 0:
                    os.posix_fallocate(fd, 0, SIZE)  # a full disk is found out now, not by SIGBUS
                self._memory = mmap.mmap(fd, SIZE)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot be used: {error}",
                file=path,
                expected="a ledger in a writable state folder",
            ) from error
        self._header: NDArray[Any] = np.ndarray((), _HEADER, self._memory)
        self._records: NDArray[Any] = np.ndarray(
            (CAMERAS,), _RECORD, self._memory, _HEADER.itemsize
        )
        if self._header["magic"] not in (b"", MAGIC):
            raise StateError(
                "is not a ledger of this version", file=path, key="magic",
                value=bytes(self._header["magic"]), expected=repr(MAGIC),
            )  # fmt: skip
        self._header["magic"] = MAGIC
        self._lock = threading.Lock()

    def next_epoch(self) -> int:
        """A number that was never given before, also across power cuts. From any thread."""
        with self._lock:
            self._header["epochs"] += 1
            self._memory.flush()
            return int(self._header["epochs"])

    def account(self, camera: str) -> "Account":
        """The camera's record, found by its name or begun."""
        name = camera.encode()
        if not 1 <= len(name) <= NAME_BYTES:
            raise StateError(
                "is no name for the ledger", file=self.path, key="camera", value=camera,
                expected=f"1 to {NAME_BYTES} bytes",
            )  # fmt: skip
        for record in self._records:
            if record["name"] in (name, b""):
                record["name"] = name
                return Account(camera, record)
        raise StateError(
            "has no room for another camera", file=self.path, value=camera,
            expected=f"at most {CAMERAS} names over the ledger's life",
        )  # fmt: skip

    def accounts(self) -> list["Account"]:
        return [Account(r["name"].decode(), r) for r in self._records if r["name"] != b""]


class Account:
    """One camera's counts."""

    def __init__(self, camera: str, record: Any) -> None:
        self.camera, self._record = camera, record

    def receive(self, frame: FrameId) -> None:
        """Before anything else is done with a frame. Source thread."""
        self._record["last_received"] = (frame.epoch, frame.sequence)
        self._record["received"] += 1

    def decide(self, frame: FrameId, outcome: Outcome, reason: Reason | None) -> None:
        """Once for every frame received, in their order. Event loop."""
        if outcome is Outcome.UNINSPECTED:
            self._record["uninspected"][REASONS.index(reason or Reason.NO_MODEL)] += 1
        else:
            self._record[outcome.value] += 1
        self._record["last_decided"] = (frame.epoch, frame.sequence)

    def gap(self) -> Unrecorded | None:
        """At a start: what an earlier run left in flight."""
        missing = self.counts().in_flight
        if missing == 0:
            return None
        after, last = self._frame("last_decided"), self._frame("last_received")
        return Unrecorded(self.camera, after, last, missing)

    def close_gap(self) -> Unrecorded | None:
        """What an earlier run left in flight becomes `daemon_restart`."""
        gap = self.gap()
        if gap is not None:
            self._record["uninspected"][REASONS.index(Reason.DAEMON_RESTART)] += gap.count
            self._record["last_decided"] = gap.last
        return gap

    def _frame(self, field: str) -> tuple[int, int]:
        epoch, sequence = self._record[field]
        return int(epoch), int(sequence)

    def counts(self) -> Counts:
        """Balanced whenever it is called, from any thread or process."""
        record = self._record
        # Decided before received: what is decided meanwhile can then not exceed what was received.
        ok, defect = int(record["ok"]), int(record["defect"])
        per_reason = [int(n) for n in record["uninspected"]]
        received = int(record["received"])
        uninspected = {r: n for r, n in zip(REASONS, per_reason, strict=True) if n}
        in_flight = received - ok - defect - sum(per_reason)
        return Counts(received, ok, defect, uninspected, in_flight)
