"""The outbox's file: what is done with it, statement by statement. One connection, one thread.

What is committed outlives a kill and a power cut (WAL, synchronous=FULL). SQLite's own checksums
cover what is not yet in the main file; each event carries one more, so that a torn page is never
taken for an event.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.records.outbox_schema import PAGE_BYTES, WAITING, Kind, checksum, prepare
from daemon.records.reported import Reported

DELIVERED_KEPT = 1000
"""Events that everybody has stay for so many more, for those who look on."""
BUSY_SECONDS = 5.0
"""How long another process may hold the file: `clearline outbox --requeue`, for milliseconds."""
RESERVED_PAGES = 16
"""Of the limit, for what is written besides events."""
FULL_BYTES = 1 << 20
AT_ONCE = 256  # rows that are deleted for their age in one statement


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it lies in the file. `sink`: the only one that it is for, if any."""

    seq: int
    at: float
    kind: Kind
    sink: str | None
    body: bytes


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


@dataclass(frozen=True, slots=True)
class Shed:
    """Events that were given up since it was last said."""

    since_ns: int
    """Unix time."""
    events: Counter[Kind]
    reason: str


def damaged(error: Exception) -> bool:
    """Whether it says that the file is not what was written."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def no_disk(error: Exception) -> bool:
    """Whether it says that the disk takes nothing: it may, later."""
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def is_full(path: Path) -> bool:
    """Whether its disk has hardly any room: a broken one takes nothing either."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < FULL_BYTES


def kept_out(error: Exception, path: Path) -> bool:
    """Whether it says that we may not use the file, whatever is in it."""
    if _code(error) == sqlite3.SQLITE_READONLY:  # or its header says so, and is wrong
        return not os.access(path, os.W_OK)
    return _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


class OutboxFile:
    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        """Makes it where it is not there, and brings it to this version where it is older.

        `max_bytes` of the file; as it was where None. Raises sqlite3.Error, StateError.
        """
        self.path = path
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            prepare(self._db, path)
            said = self._value("SELECT max_bytes FROM limits")
            if max_bytes is not None and said != max_bytes:
                with self.transaction():
                    self._db.execute("DELETE FROM limits")
                    self._db.execute("INSERT INTO limits VALUES (?)", (max_bytes,))
            self._most_pages = (max_bytes or said or 1 << 30) // PAGE_BYTES
            self._value(f"PRAGMA max_page_count = {self._most_pages}")
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

    def insert(self, rows: Sequence[tuple[float, Kind, bytes]]) -> None:
        self._db.executemany(
            "INSERT INTO events (at, kind, crc, body) VALUES (?, ?, ?, ?)",
            [(at, kind, checksum(kind, None, body), body) for at, kind, body in rows],
        )

    def rows(self, after: int, sink: str, limit: int) -> tuple[list[Row], list[int]]:
        """What follows in its order for this sink; and which of it are not what was written."""
        found = self._db.execute(
            "SELECT seq, at, kind, sink, body, crc FROM events"
            " WHERE seq > ? AND (sink IS NULL OR sink = ?) ORDER BY seq LIMIT ?",
            (after, sink, limit),
        ).fetchall()
        whole = [Row(*row) for *row, crc in found if checksum(*row[2:]) == crc]
        seqs = {row.seq for row in whole}
        return whole, [row[0] for row in found if row[0] not in seqs]

    def carry(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As they were in another file; what is here already stays."""
        marks = ", ".join("?" * len(rows[0]))
        self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)

    def forget(self, seqs: Sequence[int]) -> None:
        self._db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in seqs])

    # Sinks

    def cursors(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT sink, seq FROM cursors").fetchall())

    def keep_sinks(self, sinks: Sequence[str]) -> dict[str, int]:
        """A new one gets all that is here, of one that is no more nothing waits any longer: how
        many events that were, by its name."""
        cursors = self.cursors()
        if set(cursors) == set(sinks):
            return {}
        gone = {
            sink: int(self._value("SELECT count(*) FROM events WHERE seq > ?", seq))
            for sink, seq in cursors.items()
            if sink not in sinks
        }
        with self.transaction():
            self._db.executemany("DELETE FROM cursors WHERE sink = ?", [(s,) for s in gone])
            self._db.executemany(
                "INSERT OR IGNORE INTO cursors VALUES (?, 0)", [(s,) for s in sinks]
            )
        return gone

    def advance(self, sink: str, seq: int) -> None:
        """The sink has everything up to this number; what all have, and some more, is deleted."""
        self._db.execute("UPDATE cursors SET seq = max(seq, ?) WHERE sink = ?", (seq, sink))
        self._db.execute(
            "DELETE FROM events WHERE seq <= (SELECT min(seq) FROM cursors) - ?", (DELIVERED_KEPT,)
        )

    def rewind(self, beyond: int) -> list[str]:
        """Sinks that claim to have events that were never there begin anew."""
        wrong = [sink for sink, seq in self.cursors().items() if not 0 <= seq <= beyond]
        with self.transaction():
            self._db.executemany("UPDATE cursors SET seq = 0 WHERE sink = ?", [(s,) for s in wrong])
        return wrong

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
            (at, kind, sink, reason, checksum(kind, sink, body), body),
        )

    def requeue(self, letter: int | None) -> int:
        """Dead letters (None: all) become events again, for the sink that refused them, where the
        line still has it. How many."""
        which = "sink IN (SELECT sink FROM cursors) AND (? IS NULL OR id = ?)"
        letters = self._db.execute(
            f"SELECT id, kind, sink, body FROM dead_letters WHERE {which} ORDER BY id",
            (letter, letter),
        ).fetchall()
        self._db.executemany(
            "INSERT INTO events (at, kind, sink, crc, body) VALUES (?, ?, ?, ?, ?)",
            [(self.newest(), k, s, checksum(k, s, body), body) for _, k, s, body in letters],
        )
        self._db.executemany(
            "DELETE FROM dead_letters WHERE id = ?", [(id_,) for id_, *_ in letters]
        )
        return len(letters)

    # What was told of frames, and what is to be told of losses

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

    def lose(self, events: Counter[Kind], since_ns: int, reason: str) -> None:
        self._db.executemany(
            "INSERT INTO shed VALUES (?, ?, ?, ?) ON CONFLICT (kind) DO UPDATE"
            " SET events = events + excluded.events, reason = excluded.reason",
            [(kind, count, since_ns, reason) for kind, count in events.items()],
        )

    def damage(self, what: Damage) -> None:
        said = what.problem, what.set_aside, what.saved, what.lost_at_most
        self._db.execute("INSERT INTO damage VALUES (?, ?, ?, ?)", said)

    def losses(self) -> list[Shed | Damage]:
        """What no event has told of yet."""
        told: list[Shed | Damage] = [
            Damage(*row) for row in self._db.execute("SELECT * FROM damage")
        ]
        shed = self._db.execute("SELECT kind, events, since_ns, reason FROM shed").fetchall()
        if shed:
            since_ns, reason = min(row[2] for row in shed), shed[-1][3]
            told.append(Shed(since_ns, Counter({row[0]: row[1] for row in shed}), reason))
        return told

    def told_of_losses(self) -> None:
        self._db.execute("DELETE FROM damage")
        self._db.execute("DELETE FROM shed")

    # Bounds

    def most_pages(self) -> int:
        """Of events, where there is nothing else."""
        return self._most_pages - 2 * RESERVED_PAGES

    def free_pages(self) -> int:
        """Below zero where the limit was lowered."""
        used = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        return int(self._most_pages - RESERVED_PAGES - used)

    def expire(self, before: float) -> Counter[Kind]:
        """What is older is deleted; of it, what somebody was still to have."""
        outlived: Counter[Kind] = Counter()
        for table, number, lost in (
            ("events", "seq", f"at < ? AND {WAITING}"),
            ("dead_letters", "id", "at < ?"),
        ):
            old = f"SELECT {number} FROM {table} ORDER BY {number} LIMIT {AT_ONCE}"
            while True:  # from the oldest on: a look through all would read the whole file
                which = f"{number} IN ({old}) AND {lost}"
                outlived += self._count(table, which, before)
                deleted = self._db.execute(
                    f"DELETE FROM {table} WHERE {number} IN ({old}) AND at < ?", (before,)
                ).rowcount
                if deleted < AT_ONCE:
                    break
        return outlived

    def drop_delivered(self) -> int:
        """Those kept for people who look on."""
        return self._db.execute(
            f"DELETE FROM events WHERE seq <= ? AND NOT ({WAITING})", (self.delivered(),)
        ).rowcount

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
        return int(self._value("SELECT seq FROM sqlite_sequence WHERE name = 'events'") or 0)

    def skip_to(self, seq: int) -> None:
        """No number up to this one is given again."""
        if seq > self.last_seq():
            self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
            self._db.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (seq,))

    def newest(self) -> float:
        """When the last event came, by the outbox's clock; 0 where none did."""
        return float(self._value("SELECT at FROM events ORDER BY seq DESC LIMIT 1") or 0)

    def _count(self, table: str, where: str, *values: object) -> Counter[Kind]:
        found = self._db.execute(
            f"SELECT kind, count(*) FROM {table} WHERE {where} GROUP BY kind", values
        )
        return Counter(dict(found.fetchall()))

    def _value(self, query: str, *values: object) -> Any:
        found = self._db.execute(query, values).fetchone()
        return None if found is None else found[0]
