"""An outbox whose file was torn: what is lost is found out and named, what is not is carried over.

SQLite notices most damage by itself. What it cannot notice is an end that is missing altogether: a
write-ahead log that was cut off reads like a shorter one. So the number of the last commit is also
written into a file of its own, the mark, which outlives a kill; after a power cut it is no newer
than the disk. It says as well that the file beside it is ours, whatever its header says.
"""

import contextlib
import mmap
import os
import sqlite3
import struct
import zlib
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.errors import StateError
from daemon.records.outbox_file import Damage, OutboxFile, damaged, kept_out, no_disk
from daemon.records.outbox_schema import VERSION, checksum

_MARK = struct.Struct("<QI")
_AT_ONCE = 256  # rows in a commit, so that the log stays small
_PARTS = ("-shm", "-wal", "")  # of a database, its own file last

# What is carried over, and from both ends: as far as the damage lets us.
_CARRIED = {
    "events": ("seq", "seq, at, kind, sink, crc, body"),
    "dead_letters": ("id", "id, at, kind, sink, reason, crc, body"),
    "reported": ("camera", "camera, defects, uninspected, epoch, sequence"),
    "cursors": ("sink", "sink, seq"),
    "shed": ("kind", "kind, events, since_ns, reason"),
}


class Mark:
    """The number of the last commit, in memory that the kernel writes back."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be made."""
        with path.open("a+b") as file:
            os.posix_fallocate(file.fileno(), 0, mmap.PAGESIZE)
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def seq(self) -> int:
        """0 where it says nothing that can be believed: nothing was ever committed, or it is torn,
        or another version's."""
        seq, crc = _MARK.unpack_from(self._memory)
        return int(seq) if crc == _sum(seq) else 0

    @seq.setter
    def seq(self, seq: int) -> None:
        _MARK.pack_into(self._memory, 0, seq, _sum(seq))

    def close(self) -> None:
        self._memory.close()


def _sum(seq: int) -> int:
    return zlib.crc32(struct.pack("<QI", seq, VERSION))


def opened(path: Path, max_bytes: int, mark: Mark) -> OutboxFile:
    """The outbox, a new one where it was damaged. Raises StateError, sqlite3.Error, OSError."""
    for rescued in path.parent.glob(f"{path.name}.rescued-*"):
        _take_the_place(path, rescued)
    try:
        file = OutboxFile(path, max_bytes)
    except (StateError, sqlite3.DatabaseError) as error:
        ours = mark.seq > 0 or damaged(error)
        if not ours or no_disk(error) or kept_out(error, path):
            raise
        return replaced(path, max_bytes, mark, str(error))
    fault = file.fault()
    if fault is not None:
        file.close()
        return replaced(path, max_bytes, mark, fault)
    missing = mark.seq - file.last_seq()
    if missing > 0:
        with file.transaction():
            file.skip_to(mark.seq)
            file.damage(Damage("its last commits are missing", None, file.depth(), missing))
    for sink in file.rewind(file.last_seq()):
        with file.transaction():
            file.damage(Damage(f"the cursor of {sink} was beyond the end", None, file.depth(), 0))
    return file


def replaced(path: Path, max_bytes: int, mark: Mark, problem: str) -> OutboxFile:
    """What can be read goes into a new file, which takes the damaged one's place.

    Before the new file has its second name the damaged one is the outbox, from then on the new one
    is, and a kill in between is made up for by `opened`. Raises as that does.
    """
    new, moment = (
        path.with_name(f"{path.name}.new"),
        datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"),
    )
    _remove(new)
    try:
        with contextlib.closing(OutboxFile(new, 2 * max_bytes)) as file:
            _carry_over(path, file)
            last, known = max(mark.seq, file.last_seq()), bool(file.cursors())
            file.rewind(last)
            saved = file.depth()
            lost = max(0, last - file.delivered() - saved) if known else None
            with file.transaction():
                file.skip_to(last)
                file.damage(Damage(problem, _aside(path, moment).name, saved, lost))
    except BaseException:
        _remove(new)
        raise
    _take_the_place(path, new.rename(path.with_name(f"{path.name}.rescued-{moment}")))
    return OutboxFile(path, max_bytes)


def _take_the_place(path: Path, rescued: Path) -> None:
    aside = _aside(path, rescued.name.rpartition("-")[2])
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + part).rename(aside.with_name(aside.name + part))
    rescued.rename(path)


def _aside(path: Path, moment: str) -> Path:
    return path.with_name(f"{path.name}.damaged-{moment}")


def _carry_over(path: Path, file: OutboxFile) -> None:
    """Raises sqlite3.Error where the new file cannot be written."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as torn:
        for table, (key, columns) in _CARRIED.items():
            for order in ("ASC", "DESC"):
                rows = _readable(torn, f"SELECT {columns} FROM {table} ORDER BY {key} {order}")
                sound = (row for row in rows if _sound(table, row))
                while batch := list(islice(sound, _AT_ONCE)):
                    with file.transaction():
                        file.carry(table, batch)


def _readable(torn: sqlite3.Connection, query: str) -> Any:
    """Until the damage."""
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from torn.execute(query)


def _sound(table: str, row: tuple[Any, ...]) -> bool:
    match table, row:
        case "events", (int(), float(), str() as kind, sink, crc, body):
            return bool(checksum(kind, sink, body) == crc)
        case "dead_letters", (int(), float(), str() as kind, sink, str(), crc, body):
            return bool(checksum(kind, sink, body) == crc)
        case "reported", (str(), int(), int(), int(), int()):
            return True
        case "cursors", (str(), int()):
            return True
        case "shed", (str(), int(), int(), str()):
            return True
    return False


def _remove(path: Path) -> None:
    for part in _PARTS:
        path.with_name(path.name + part).unlink(missing_ok=True)
