"""The state folder: there, writable, and one line's alone."""

import fcntl
from pathlib import Path
from typing import IO

from daemon.errors import StateError


def make(path: Path) -> None:
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


def claim(path: Path) -> IO[bytes]:
    """Held for as long as the line lives: two of them would each close the other's frames as lost.

    Raises StateError where another one holds it.
    """
    held = (path / "claim").open("ab")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise StateError(
            "is in use by another line", file=path, key="state_dir", expected="a folder of its own"
        ) from error
    return held


def share_a_disk(one: Path, other: Path) -> bool:
    """Whether room in one is room in the other; a folder that is not there yet is its parent's."""

    def device(path: Path) -> int:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        return there.stat().st_dev

    return device(one) == device(other)
