"""The state folder, and that of the evidence: there, writable, and one line's alone."""

import contextlib
import fcntl
from pathlib import Path
from typing import IO

from daemon.errors import StateError


def make(path: Path, key: str = "state_dir") -> None:
    """`key`: of the configuration, which named the folder.

    Raises StateError where the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise StateError(
            f"cannot be written to: {reason}", file=path, key=key,
            expected="a writable folder",
        ) from error  # fmt: skip


def claim(path: Path, key: str = "state_dir") -> IO[bytes]:
    """Held for as long as the line lives: two of them would each close the other's frames as lost,
    and write over the other's pictures.

    Raises StateError where another one holds it, or where it cannot be held.
    """
    with contextlib.ExitStack() as on_failure:
        try:
            held = on_failure.enter_context((path / "claim").open("ab"))
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                "is in use by another line", file=path, key=key, expected="a folder of its own"
            ) from error
        except OSError as error:
            raise StateError(
                f"cannot be claimed: {error.strerror}", file=path / "claim", key=key,
                expected="a file that can be written and locked",
            ) from error  # fmt: skip
        on_failure.pop_all()
        return held


def share_a_disk(one: Path, other: Path) -> bool:
    """Whether room in one is room in the other; a folder that is not there yet is its parent's."""

    def device(path: Path) -> int:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        return there.stat().st_dev

    return device(one) == device(other)
