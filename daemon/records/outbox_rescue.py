"""An outbox whose file was torn: what is lost is found out and named, what is not is carried over.

SQLite notices most damage by itself. What it cannot notice is an end that is missing altogether: a
write-ahead log that was cut off reads like a shorter one. So the number of the last commit is also
written into a file of its own, the mark, which outlives a kill; after a power cut it is no newer
than the disk.
"""

import contextlib
import mmap
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from daemon.records.outbox_file import OutboxFile, Row, damaged

_MARK = struct.Struct("<QI")
_ROWS = 256  # in a commit, so that the log stays small


@dataclass(frozen=True, slots=True)
class Damage:
    """What became of a torn file."""

    problem: str
    set_aside: str | None
    """The name that it has now; None where it could stay."""
    saved: int
    """Events carried over; those that a sink had already may be sent again."""
    lost_at_most: int | None
    """Events that were committed and are not there; None where nobody can say."""


class Mark:
    """The number of the last commit, in memory that the kernel writes back."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be made."""
        with path.open("a+b") as file:
            os.posix_fallocate(file.fileno(), 0, mmap.PAGESIZE)
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def seq(self) -> int:
        """0 where it says nothing that can be believed."""
        seq, crc = _MARK.unpack_from(self._memory)
        return int(seq) if crc == zlib.crc32(struct.pack("<Q", seq)) else 0

    @seq.setter
    def seq(self, seq: int) -> None:
        _MARK.pack_into(self._memory, 0, seq, zlib.crc32(struct.pack("<Q", seq)))

    def close(self) -> None:
        self._memory.close()


def opened(path: Path, max_bytes: int, mark: Mark) -> tuple[OutboxFile, Damage | None]:
    """The outbox, a new one where it was damaged. Raises StateError, sqlite3.Error, OSError."""
    try:
        file = OutboxFile(path, max_bytes)
    except sqlite3.DatabaseError as error:
        if not damaged(error):
            raise
        return replaced(path, max_bytes, mark, str(error))
    fault = file.fault()
    if fault is not None:
        file.close()
        return replaced(path, max_bytes, mark, fault)
    missing = mark.seq - file.last_seq()
    if missing <= 0:
        return file, None
    with file.transaction():
        file.skip_to(mark.seq)
    return file, Damage("its last commits are missing", None, file.depth(), missing)


def replaced(path: Path, max_bytes: int, mark: Mark, problem: str) -> tuple[OutboxFile, Damage]:
    """The damaged file gets another name, and what can be read of it goes into a new one.

    Raises StateError, sqlite3.Error, OSError.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    for suffix in ("-shm", "-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    file = OutboxFile(path, max_bytes)
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as database:
        cursors = _cursors(database)
        delivered = min(cursors.values(), default=0)
        with file.transaction():
            file.keep_sinks(list(cursors))
            for sink, seq in cursors.items():
                file.advance(sink, seq)
        for order in ("ASC", "DESC"):  # from both ends, as far as the damage lets us
            rows = _whole_rows(database, order, delivered)
            while batch := list(islice(rows, _ROWS)):
                with file.transaction():
                    file.restore(batch)
    saved, last = file.depth(), max(mark.seq, file.last_seq(), delivered)
    with file.transaction():
        file.skip_to(last)
    return file, Damage(problem, aside.name, saved, last - delivered - saved if cursors else None)


def _cursors(database: sqlite3.Connection) -> dict[str, int]:
    try:
        return dict(database.execute("SELECT sink, seq FROM cursors").fetchall())
    except sqlite3.DatabaseError:
        return {}


def _whole_rows(database: sqlite3.Connection, order: str, after: int) -> Iterator[Row]:
    """Until the damage."""
    with contextlib.suppress(sqlite3.DatabaseError):
        for *row, crc in database.execute(
            f"SELECT seq, at, kind, sink, body, crc FROM events WHERE seq > ? ORDER BY seq {order}",
            (after,),
        ):
            if isinstance(row[-1], bytes) and zlib.crc32(row[-1]) == crc:
                yield Row(*row)
