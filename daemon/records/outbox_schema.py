"""The outbox's database as it lies on the disk: its tables, its checksums, and older versions."""

import sqlite3
import zlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from adapters.ports import Event
from daemon.errors import StateError

PAGE_BYTES = 4096
APPLICATION_ID = 0x434C5231  # "CLR1", in the file's header
VERSION = 2

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
CREATE TABLE shed (kind TEXT PRIMARY KEY, events INTEGER, since_ns INTEGER, reason TEXT);
CREATE TABLE damage (problem TEXT, set_aside TEXT, saved INTEGER, lost INTEGER);
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


LOSSES = frozenset({"unrecorded", "unreported", "shed", "outbox_replaced"})


def kind_of(event: Event) -> Kind:
    """What it is worth: what is said of losses as much as a defect, or they would go unsaid."""
    match event.type:
        case "clearline.defect.v1":
            return "defect"
        case "clearline.camera.v1":
            return "camera"
    kind = event.data.get("kind")
    if kind in LOSSES:
        return "defect"
    return "summary" if kind == "summary" else "line"


def checksum(kind: object, sink: object, body: object) -> int:
    """Over all that a row says; -1 where it holds what no row of ours ever held."""
    if not isinstance(body, bytes):
        return -1
    return zlib.crc32(body, zlib.crc32(f"{kind} {sink}".encode(errors="replace")))


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """A new file becomes ours, an older one of this version. Raises sqlite3.Error, and StateError
    where it is another program's, or a newer version's."""
    owner = _value(db, "PRAGMA application_id")
    version = _value(db, "PRAGMA user_version")
    if owner != APPLICATION_ID and (owner or _value(db, "SELECT count(*) FROM sqlite_schema")):
        raise StateError("is another program's database", file=path, expected="an outbox")
    if version > VERSION:
        raise StateError(
            "was written by a newer version", file=path, key="user_version", value=version,
            expected=f"at most {VERSION}",
        )  # fmt: skip
    if owner != APPLICATION_ID:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("PRAGMA synchronous = FULL")
    if version != VERSION:
        _migrate(db)


def _migrate(db: sqlite3.Connection) -> None:
    old = _value(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'events'")
    db.execute("BEGIN IMMEDIATE")
    try:
        if old:  # version 1 had events and nothing else
            db.execute("ALTER TABLE events RENAME TO events_1")
        for statement in _TABLES.split(";"):
            db.execute(statement)
        if old:
            _take_over(db)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _take_over(db: sqlite3.Connection) -> None:
    torn = 0
    for seq, at, body in db.execute("SELECT seq, at, body FROM events_1 ORDER BY seq"):
        try:
            kind = kind_of(decode(body))
        except (msgspec.DecodeError, TypeError):
            torn += 1
            continue
        crc = checksum(kind, None, body)
        db.execute("INSERT INTO events VALUES (?, ?, ?, NULL, ?, ?)", (seq, at, kind, crc, body))
    last = _value(db, "SELECT seq FROM sqlite_sequence WHERE name = 'events_1'")
    db.execute("DROP TABLE events_1")
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    db.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (last or 0,))
    if torn:
        db.execute("INSERT INTO damage VALUES ('events that are no events', NULL, 0, ?)", (torn,))


def _value(db: sqlite3.Connection, query: str) -> Any:
    found = db.execute(query).fetchone()
    return None if found is None else found[0]
