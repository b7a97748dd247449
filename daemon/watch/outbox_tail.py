"""The outbox as somebody else reads it, while the line runs or not: what came last, and what comes.

Each look opens the file anew, for milliseconds: it may be gone, locked or another one by then. The
outbox holds the last 1000 events that everybody has for those who look on, and all others.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

import clearline
from adapters.sinks.cloud_event import structured
from daemon.errors import StateError
from daemon.records.outbox_report import require_file
from daemon.records.outbox_schema import checksum, decode

AT_ONCE = 500  # events in one read, so that none holds up a checkpoint
BUSY_S = 1.0

_ROWS = "SELECT seq, at, crc, kind, sink, body FROM events"
_Row = tuple[int, float, int, bytes]


class EventsMissed(clearline.Error):
    """Events were gone before they could be shown, or are not what was written."""


Line = dict[str, Any] | EventsMissed


class OutboxTail:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._seq: int | None = None
        """Of the last event seen; None where none of this file was."""
        self._at = 0.0
        """When it was committed."""
        self._seen_until = 0.0
        """What was committed up to then was seen in an earlier file."""

    def last(self, most: int, takes: Callable[[dict[str, Any]], bool]) -> list[Line]:
        """So many of what is there and wanted, in their order; `read` goes on behind it.
        What is torn is among them.

        Raises StateError.
        """
        found: list[Line] = []
        with self._reading() as db:
            newest = _newest(db)
            top = db.execute(f"{_ROWS} ORDER BY seq DESC LIMIT 1").fetchone()
            before = newest + 1
            while len(found) < most:
                rows = db.execute(
                    f"{_ROWS} WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before, AT_ONCE)
                ).fetchall()
                if not rows:
                    break
                before = rows[-1][0]
                lines = [_line(row) for row in rows]
                found += [line for line in lines if isinstance(line, EventsMissed) or takes(line)]
        self._seq, self._at = newest, 0.0 if top is None else top[1]
        return found[:most][::-1]

    def read(self) -> list[Line]:
        """What came since the last call, in order; all where nothing was read before.

        Raises StateError.
        """
        found: list[Line] = []
        with self._reading() as db:
            if self._seq is not None and _newest(db) < self._seq:
                # Another file. Where a damaged one is being carried over, its events keep their
                # numbers and times, but come in turn.
                self._seq, self._seen_until = None, self._at
            while rows := db.execute(
                f"{_ROWS} WHERE seq > ? ORDER BY seq LIMIT ?", (self._seq or 0, AT_ONCE)
            ).fetchall():
                for row in rows:
                    found += self._told(row)
        return found

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _told(self, row: _Row) -> Iterator[Line]:
        seq, at, *_ = row
        missed = 0 if self._seq is None else seq - self._seq - 1
        self._seq, self._at = seq, max(at, self._at)
        if missed:
            yield EventsMissed(
                f"lacks {missed} events that were gone before they could be shown", file=self._path
            )
        if at > self._seen_until:
            yield _line(row)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        require_file(self._path, "a line's state folder")
        try:
            address = f"{self._path.absolute().as_uri()}?mode=ro"
            with closing(
                sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
            ) as db:
                yield db
        except sqlite3.Error as error:
            raise StateError(
                f"cannot be read: {error}", file=self._path, expected="an outbox of this version"
            ) from error


def _newest(db: sqlite3.Connection) -> int:
    """The highest number that this file ever gave."""
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(found[0]) if found else 0


def _line(row: _Row) -> Line:
    seq, _, crc, *content = row
    try:
        if checksum(*content) == crc:
            return structured(decode(content[-1]))
    except msgspec.DecodeError:
        pass
    return EventsMissed("is not what was written", key="event", value=seq)
