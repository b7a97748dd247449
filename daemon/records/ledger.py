"""The ledger: what became of every frame, in a memory-mapped file that outlives a kill.

What is received and what is decided stand in two records, each with one writer (the camera's source
thread; the event loop) and each written twice over: the new state goes into the half that nobody
reads, and one aligned word, the record's generation, then says that this half holds. So a reader in
any process, at any moment, and after a kill at any instruction, finds a whole state. In flight is
what was received and not decided: never stored, so never wrong.
"""

import mmap
import os
import struct
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.ports import FrameId, Outcome, Reason
from daemon.errors import StateError

MAGIC = b"CLRLEDG2"
NAME_BYTES = 64
CAMERAS = 64  # room in the file; a line has a handful
REASONS = tuple(Reason)

_HEADER = struct.Struct("<8sQ48x")  # magic, epochs
_RECEIVED = struct.Struct("<3Q")  # frames; the last one's epoch and sequence
_DECIDED = struct.Struct(f"<{2 + len(REASONS) + 2}Q")  # ok, defect, one a reason; epoch, sequence
_WORD = 8
_TWICE_RECEIVED = _WORD + 2 * _RECEIVED.size
_ACCOUNT = NAME_BYTES + _TWICE_RECEIVED + _WORD + 2 * _DECIDED.size
_PLACES = tuple(_HEADER.size + k * _ACCOUNT for k in range(CAMERAS))
SIZE = _HEADER.size + CAMERAS * _ACCOUNT


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
    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Opens the file, or makes it where it may write.

        Raises StateError where it is not ours, not there or not writable.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
            try:
                if writable and os.fstat(fd).st_size == 0:
                    os.posix_fallocate(fd, 0, SIZE)  # a full disk is found out now, not by SIGBUS
                access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                self._memory = mmap.mmap(fd, SIZE, access=access)
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
            weakref.finalize(self, os.close, fd)
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot be used: {error}",
                file=path,
                expected=f"a ledger in a {'writable' if writable else 'readable'} state folder",
            ) from error
        magic = self._memory[: len(MAGIC)]
        if magic != MAGIC and (magic.strip(b"\0") or not writable):
            raise StateError(
                "is not a ledger of this version", file=path, key="magic",
                value=magic, expected=repr(MAGIC),
            )  # fmt: skip
        if writable:
            self._memory[: len(MAGIC)] = MAGIC
        self._words: NDArray[np.uint64] = np.frombuffer(self._memory, "<u8")
        self._lock = threading.Lock()

    def next_epoch(self) -> int:
        """A number that was never given before, also across power cuts. From any thread."""
        with self._lock:
            self._words[1] += np.uint64(1)
            os.fdatasync(self._fd)  # and not mmap's flush, which holds all threads meanwhile
            return int(self._words[1])

    def account(self, camera: str) -> "Account":
        """The camera's record, found by its name or begun."""
        name = camera.encode()
        if not 1 <= len(name) <= NAME_BYTES:
            raise StateError(
                "is no name for the ledger", file=self.path, key="camera", value=camera,
                expected=f"1 to {NAME_BYTES} bytes",
            )  # fmt: skip
        for place in _PLACES:
            known = self._name(place)
            if not known:
                self._memory[place : place + len(name)] = name
            if known in (name, b""):
                return Account(camera, self._memory, self._words, place + NAME_BYTES)
        raise StateError(
            "has no room for another camera", file=self.path, value=camera,
            expected=f"at most {CAMERAS} names over the ledger's life",
        )  # fmt: skip

    def accounts(self) -> list["Account"]:
        return [
            Account(name.decode(), self._memory, self._words, place + NAME_BYTES)
            for place in _PLACES
            if (name := self._name(place))
        ]

    def _name(self, place: int) -> bytes:
        return self._memory[place : place + NAME_BYTES].rstrip(b"\0")


def report(ledger: Ledger) -> dict[str, Any]:
    """The ledger as a JSON object: per camera what was received, and what became of it."""
    cameras = {}
    for account in ledger.accounts():
        counts = account.counts()
        epoch, sequence = account.last_received
        cameras[account.camera] = {
            "received": counts.received,
            "ok": counts.ok,
            "defect": counts.defect,
            "uninspected": {reason.value: n for reason, n in counts.uninspected.items()},
            "in_flight": counts.in_flight,
            "last_epoch": epoch,
            "last_sequence": sequence,
        }
    return {"ledger": str(ledger.path), "cameras": cameras}


class _Twice:
    """A record of whole numbers, replaced as one. One writer; readers anywhere."""

    def __init__(
        self, memory: mmap.mmap, words: "NDArray[np.uint64]", place: int, layout: struct.Struct
    ) -> None:
        self._memory, self._words, self._layout = memory, words, layout
        self._generation, self._halves = place // _WORD, place + _WORD

    def read(self) -> list[int]:
        while True:
            generation = int(self._words[self._generation])
            place = self._halves + (generation & 1) * self._layout.size
            numbers = self._layout.unpack_from(self._memory, place)
            if int(self._words[self._generation]) == generation:
                return list(numbers)

    def write(self, numbers: list[int]) -> None:
        generation = int(self._words[self._generation]) + 1
        place = self._halves + (generation & 1) * self._layout.size
        self._layout.pack_into(self._memory, place, *numbers)
        self._words[self._generation] = generation


class Account:
    """One camera's counts."""

    def __init__(
        self, camera: str, memory: mmap.mmap, words: "NDArray[np.uint64]", place: int
    ) -> None:
        self.camera = camera
        self._received = _Twice(memory, words, place, _RECEIVED)
        self._decided = _Twice(memory, words, place + _TWICE_RECEIVED, _DECIDED)

    def receive(self, last: FrameId, frames: int = 1) -> None:
        """Before anything else is done with them. Source thread."""
        self._received.write([self._received.read()[0] + frames, last.epoch, last.sequence])

    def decide(self, frame: FrameId, outcome: Outcome, reason: Reason | None) -> None:
        """Once for every frame received, in their order. Event loop."""
        *counts, _, _ = self._decided.read()
        counts[_column(outcome, reason)] += 1
        self._decided.write([*counts, frame.epoch, frame.sequence])

    def missed(self, last: FrameId, frames: int, reason: Reason) -> None:
        """Received as numbers only: nobody waits for their verdicts. Event loop."""
        *counts, epoch, sequence = self._decided.read()
        if self.counts().in_flight == frames:  # else others before them are still under way
            epoch, sequence = last.epoch, last.sequence
        counts[_column(Outcome.UNINSPECTED, reason)] += frames
        self._decided.write([*counts, epoch, sequence])

    @property
    def last_received(self) -> tuple[int, int]:
        """Epoch and sequence; zeros where nothing ever was."""
        _, epoch, sequence = self._received.read()
        return epoch, sequence

    def gap(self) -> Unrecorded | None:
        """At a start: what an earlier run left in flight."""
        missing = self.counts().in_flight
        if missing == 0:
            return None
        *_, epoch, sequence = self._decided.read()
        return Unrecorded(self.camera, (epoch, sequence), self.last_received, missing)

    def close_gap(self) -> Unrecorded | None:
        """What an earlier run left in flight becomes `daemon_restart`."""
        gap = self.gap()
        if gap is not None:
            *counts, _, _ = self._decided.read()
            counts[_column(Outcome.UNINSPECTED, Reason.DAEMON_RESTART)] += gap.count
            self._decided.write([*counts, *gap.last])
        return gap

    def counts(self) -> Counts:
        """Balanced whenever it is called, from any thread or process."""
        # Decided before received: what is decided meanwhile can then not exceed what was received.
        ok, defect, *per_reason = self._decided.read()[:-2]
        received = self._received.read()[0]
        uninspected = {r: n for r, n in zip(REASONS, per_reason, strict=True) if n}
        in_flight = received - ok - defect - sum(per_reason)
        return Counts(received, ok, defect, uninspected, in_flight)


def _column(outcome: Outcome, reason: Reason | None) -> int:
    if outcome is Outcome.OK:
        return 0
    return 1 if outcome is Outcome.DEFECT else 2 + REASONS.index(reason or Reason.NO_MODEL)
