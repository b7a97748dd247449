"""The outbox's file: a SQLite database, its schema and its statements. One connection, one thread.

What is committed outlives a kill and a power cut (WAL, synchronous=FULL). SQLite's own checksums
cover what is not yet in the main file; each event carries one more, so that a torn page is never
taken for an event.
"""

import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from adapters.ports import Event
from daemon.errors import StateError
from daemon.records.reported import Reported

PAGE_BYTES = 4096
APPLICATION_ID = 0x434C5231  # "CLR1", in the file's header
VERSION = 2
DELIVERED_KEPT = 1000
"""Events that everybody has stay for so many more, for those who look on."""
BUSY_SECONDS = 5.0
"""How long another process may hold the file: `clearline outbox --requeue`, for milliseconds."""

Kind = Literal["summary", "camera", "line", "defect"]
KINDS: tuple[Kind, ...] = ("summary", "camera", "line", "defect")

_TABLES = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    sink TEXT,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE TABLE limits (max_bytes INTEGER NOT NULL);
CREATE TABLE cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE reported (
    camera TEXT PRIMARY KEY,
    defects INTEGER NOT NULL,
    uninspected INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL
);
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    sink TEXT NOT NULL,
    reason TEXT NOT NULL,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX dead_letters_by_kind ON dead_letters (kind, id);
"""

WAITING = """seq > (SELECT min(seq) FROM cursors) AND EXISTS (
    SELECT 1 FROM cursors AS c
    WHERE events.seq > c.seq AND (events.sink IS NULL OR events.sink = c.sink)
)"""
"""Of an event: some sink that it is for does not have it yet."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it lies in the file. `sink`: the only one that it is for, if any."""

    seq: int
    at: float
    kind: Kind
    sink: str | None
    body: bytes


def kind_of(event: Event) -> Kind:
    match event.type:
        case "clearline.defect.v1":
            return "defect"
        case "clearline.camera.v1":
            return "camera"
    return "summary" if event.data.get("kind") == "summary" else "line"


def damaged(error: sqlite3.Error) -> bool:
    """Whether it says that the file is not what was written."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class OutboxFile:
    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        """Makes it where it is not there, and brings it to this version where it is older.

        `max_bytes` of the file; as it was where None. Raises sqlite3.Error (`damaged` says which
        kind), StateError where it is another program's or of a newer version.
        """
        self.path = path
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._claim()
            self._set("page_size", PAGE_BYTES)
            self._set("journal_mode", "WAL")
            self._set("synchronous", "FULL")
            self._migrate()
            if max_bytes is not None:
                self._limit(max_bytes)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def fault(self) -> str | None:
        """What is damaged, if anything. Reads all of the file."""
        try:
            said = str(self._value("PRAGMA quick_check(1)"))
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if said == "ok" else said.splitlines()[-1]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing, on the disk at its end. Raises sqlite3.Error."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def insert(self, rows: Sequence[tuple[float, Kind, str | None, bytes]]) -> None:
        self._db.executemany(
            "INSERT INTO events (at, kind, sink, crc, body) VALUES (?, ?, ?, ?, ?)",
            [(at, kind, sink, zlib.crc32(body), body) for at, kind, sink, body in rows],
        )

    def restore(self, rows: Sequence[Row]) -> None:
        """Under the numbers that they had."""
        self._db.executemany(
            "INSERT OR IGNORE INTO events (seq, at, kind, sink, crc, body) VALUES (?,?,?,?,?,?)",
            [(r.seq, r.at, r.kind, r.sink, zlib.crc32(r.body), r.body) for r in rows],
        )

    def rows(self, after: int, sink: str, limit: int) -> tuple[list[Row], list[int]]:
        """What follows in its order for this sink; and which of it are not what was written."""
        found = self._db.execute(
            "SELECT seq, at, kind, sink, body, crc FROM events"
            " WHERE seq > ? AND (sink IS NULL OR sink = ?) ORDER BY seq LIMIT ?",
            (after, sink, limit),
        ).fetchall()
        whole = [Row(*row) for *row, crc in found if zlib.crc32(row[-1]) == crc]
        return whole, [row[0] for row in found if zlib.crc32(row[-2]) != row[-1]]

    def forget(self, seqs: Sequence[int]) -> None:
        self._db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in seqs])

    # Sinks

    def cursors(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT sink, seq FROM cursors").fetchall())

    def keep_sinks(self, sinks: Sequence[str]) -> None:
        """A new one gets all that is here, of one that is no more nothing waits any longer."""
        marks = ",".join("?" * len(sinks))
        self._db.execute(f"DELETE FROM cursors WHERE sink NOT IN ({marks})", sinks)
        self._db.executemany("INSERT OR IGNORE INTO cursors VALUES (?, 0)", [(s,) for s in sinks])

    def advance(self, sink: str, seq: int) -> None:
        """The sink has everything up to this number; what all have, and some more, is deleted."""
        self._db.execute("UPDATE cursors SET seq = max(seq, ?) WHERE sink = ?", (seq, sink))
        self._db.execute(
            "DELETE FROM events WHERE seq <= (SELECT min(seq) FROM cursors) - ?", (DELIVERED_KEPT,)
        )

    def delivered(self) -> int:
        """Up to which number every sink has them."""
        return int(self._value("SELECT coalesce(min(seq), 0) FROM cursors"))

    def depth(self) -> int:
        """Events that some sink does not have yet."""
        return int(self._value(f"SELECT count(*) FROM events WHERE {WAITING}"))

    # Dead letters

    def bury(self, at: float, kind: Kind, sink: str, reason: str, body: bytes) -> None:
        self._db.execute(
            "INSERT INTO dead_letters (at, kind, sink, reason, crc, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (at, kind, sink, reason, zlib.crc32(body), body),
        )

    def requeue(self, now: float, letter: int | None) -> int:
        """Dead letters (None: all) become events again, for the sink that refused them."""
        which, values = ("", ()) if letter is None else (" WHERE id = ?", (letter,))
        self._db.execute(
            "INSERT INTO events (at, kind, sink, crc, body)"
            f" SELECT ?, kind, sink, crc, body FROM dead_letters{which} ORDER BY id",
            (now, *values),
        )
        return self._db.execute(f"DELETE FROM dead_letters{which}", values).rowcount

    # What was told of frames

    def reported(self, camera: str) -> Reported | None:
        """In all; None where this file never heard of the camera."""
        found = self._db.execute("SELECT * FROM reported WHERE camera = ?", (camera,)).fetchone()
        return None if found is None else Reported(*found)

    def report(self, more: Reported) -> None:
        """Adds to what was told of a camera that this file has heard of."""
        self._db.execute(
            "UPDATE reported SET defects = defects + ?, uninspected = uninspected + ?,"
            " epoch = ?, sequence = ? WHERE camera = ?",
            (more.defects, more.uninspected, more.epoch, more.sequence, more.camera),
        )

    def settle(self, known: Reported) -> None:
        """From now on this is what was told."""
        self._db.execute(
            "INSERT OR REPLACE INTO reported VALUES (?, ?, ?, ?, ?)",
            (known.camera, known.defects, known.uninspected, known.epoch, known.sequence),
        )

    # Bounds

    def free_pages(self) -> int:
        used = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        return int(self._value("PRAGMA max_page_count") - used)

    def expire(self, before: float) -> Counter[Kind]:
        """What is older is deleted; of it, what somebody was still to have."""
        outlived = self._count(f"at < ? AND {WAITING}", before)
        self._db.execute("DELETE FROM events WHERE at < ?", (before,))
        self._db.execute("DELETE FROM dead_letters WHERE at < ?", (before,))
        return outlived

    def drop_delivered(self) -> int:
        """Those kept for people who look on."""
        return self._db.execute("DELETE FROM events WHERE seq <= ?", (self.delivered(),)).rowcount

    def drop_oldest(self, kind: Kind, most: int) -> int:
        """Dead letters of this kind first, then events."""
        for table, number in (("dead_letters", "id"), ("events", "seq")):
            dropped = self._db.execute(
                f"DELETE FROM {table} WHERE {number} IN"
                f" (SELECT {number} FROM {table} WHERE kind = ? ORDER BY {number} LIMIT ?)",
                (kind, most),
            ).rowcount
            if dropped:
                return dropped
        return 0

    # Numbers and times

    def last_seq(self) -> int:
        """The highest number ever given."""
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(found[0]) if found else 0

    def skip_to(self, seq: int) -> None:
        """No number up to this one is given again."""
        if self._db.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'", (seq,)
        ).rowcount == 0:  # fmt: skip
            self._db.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (seq,))

    def newest(self) -> float:
        """When the last event came, Unix time; 0 where none did."""
        return float(self._value("SELECT coalesce(max(at), 0) FROM events"))

    def _count(self, where: str, *values: object) -> Counter[Kind]:
        found = self._db.execute(
            f"SELECT kind, count(*) FROM events WHERE {where} GROUP BY kind", values
        )
        return Counter(dict(found.fetchall()))

    def _claim(self) -> None:
        """A new file becomes ours; one that another program made is not touched."""
        owner = self._value("PRAGMA application_id")
        tables = self._value("SELECT count(*) FROM sqlite_schema")
        version = self._value("PRAGMA user_version")
        if owner != APPLICATION_ID and (owner or tables):
            raise StateError("is another program's database", file=self.path, expected="an outbox")
        if version > VERSION:
            raise StateError(
                "was written by a newer version", file=self.path, key="user_version",
                value=version, expected=f"at most {VERSION}",
            )  # fmt: skip
        if owner != APPLICATION_ID:
            self._set("application_id", APPLICATION_ID)

    def _limit(self, max_bytes: int) -> None:
        self._set("max_page_count", max_bytes // PAGE_BYTES)
        with self.transaction():
            self._db.execute("DELETE FROM limits")
            self._db.execute("INSERT INTO limits VALUES (?)", (max_bytes,))

    def _migrate(self) -> None:
        if self._value("PRAGMA user_version") == VERSION:
            return
        tables = self._value("SELECT count(*) FROM sqlite_schema WHERE name = 'events'")
        with self.transaction():
            if tables:  # version 1 had events and nothing else
                self._db.execute("ALTER TABLE events RENAME TO events_1")
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            if tables:
                old = self._db.execute("SELECT seq, at, body FROM events_1 ORDER BY seq")
                self.restore([Row(s, at, kind_of(decode(b)), None, b) for s, at, b in old])
                last = self._value("SELECT seq FROM sqlite_sequence WHERE name = 'events_1'")
                self._db.execute("DROP TABLE events_1")
                self.skip_to(last or 0)
            self._set("user_version", VERSION)

    def _set(self, pragma: str, value: object) -> None:
        self._db.execute(f"PRAGMA {pragma} = {value}").fetchall()

    def _value(self, query: str, *values: object) -> Any:
        found = self._db.execute(query, values).fetchone()
        return None if found is None else found[0]
