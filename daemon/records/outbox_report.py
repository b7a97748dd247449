"""`clearline outbox`: what waits in a line's outbox, also while the line runs, in any process."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from daemon.errors import StateError
from daemon.records.outbox_file import OutboxFile
from daemon.records.outbox_schema import PAGE_BYTES, WAITING, decode

NAME = "outbox.sqlite"
"""In the state folder."""
RATE_SECONDS = 600.0
"""Events must span so much time before a rate is made of them."""


def report(state: Path) -> dict[str, Any]:
    """Raises StateError."""
    with _reading(state) as db:
        depth, oldest = db.execute(
            f"SELECT count(*), min(seq) FROM events WHERE {WAITING}"
        ).fetchone()
        kinds = db.execute(
            f"SELECT kind, count(*) FROM events WHERE {WAITING} GROUP BY kind ORDER BY kind"
        )
        return {
            "waiting": depth,
            "waiting_by_kind": dict(kinds.fetchall()),
            "waiting_by_sink": {
                sink: _one(
                    db,
                    "SELECT count(*) FROM events WHERE seq > ? AND (sink IS NULL OR sink = ?)",
                    seq,
                    sink,
                )
                for sink, seq in db.execute("SELECT sink, seq FROM cursors ORDER BY sink")
            },
            "oldest_hours": None if oldest is None else _age_hours(db, oldest),
            **_room(db),
            "dead_letters": [
                {"id": id_, "sink": sink, "reason": reason, **_named(body)}
                for id_, sink, reason, body in db.execute(
                    "SELECT id, sink, reason, body FROM dead_letters ORDER BY id"
                )
            ],
        }


def _age_hours(db: sqlite3.Connection, seq: int) -> float | None:
    """By the event's own time: the outbox's clock stands still while the line does not run."""
    happened_ms = _named(_one(db, "SELECT body FROM events WHERE seq = ?", seq))["happened_ms"]
    return None if happened_ms is None else max(0.0, time.time() - happened_ms / 1000) / 3600


def _named(body: bytes) -> dict[str, Any]:
    try:
        event = decode(body)
    except (msgspec.DecodeError, TypeError):  # torn: the line finds out when it reads it
        return {"event": None, "happened_ms": None}
    return {"event": event.id, "happened_ms": event.wall_ns // 1_000_000}


def requeue(state: Path, letter: int | None) -> int:
    """Dead letters (None: all) are events again, for the sink that refused them. How many.

    The line finds them by itself within seconds. Raises StateError.
    """
    path = _there(state)
    try:
        with contextlib.closing(OutboxFile(path)) as file, file.transaction():
            count = file.requeue(letter)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    if letter is not None and not count:
        raise StateError(
            "is no dead letter of a sink that the line has", file=path, key="id", value=letter
        )
    return count


def letter(text: str) -> int | None:
    """What `--requeue` names: a number, or None for `all`. Raises StateError."""
    if text == "all":
        return None
    if not re.fullmatch("[0-9]{1,18}", text):  # SQLite's numbers end at 19 digits
        raise StateError("is no dead letter", key="requeue", value=text, expected="a number or all")
    return int(text)


def tables(told: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `report` returned, for people: titles and rows."""
    rows = {**told, "dead_letters": len(told["dead_letters"])}
    for key in ("waiting_by_kind", "waiting_by_sink"):
        rows[key] = ", ".join(f"{count} {name}" for name, count in told[key].items()) or None
    for key in ("used_bytes", "limit_bytes"):
        rows[key.replace("bytes", "mib")] = rows.pop(key) / (1 << 20)
    yield "outbox", rows
    for one in told["dead_letters"]:
        happened = one["happened_ms"] and datetime.fromtimestamp(one["happened_ms"] / 1000)
        yield f"dead letter {one['id']}", {**one, "happened_ms": happened}


def _room(db: sqlite3.Connection) -> dict[str, Any]:
    """How much there is, and how long it lasts if nothing is taken away any more."""
    used = _one(db, "PRAGMA page_count") - _one(db, "PRAGMA freelist_count")
    limit = _one(db, "SELECT max_bytes FROM limits")
    free = max(0, limit - used * PAGE_BYTES)
    size, seconds = db.execute(
        "SELECT coalesce(sum(length(body)), 0), coalesce(max(at) - min(at), 0) FROM events"
    ).fetchone()
    known = seconds >= RATE_SECONDS and size
    return {
        "used_bytes": used * PAGE_BYTES,
        "limit_bytes": limit,
        "hours_until_full": free / (size / seconds) / 3600 if known else None,
    }


@contextlib.contextmanager
def _reading(state: Path) -> Iterator[sqlite3.Connection]:
    path = _there(state)
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        db = sqlite3.connect(address, uri=True, isolation_level=None)
        with contextlib.closing(db):
            yield db
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _there(state: Path) -> Path:
    path = state / NAME
    require_file(path, "a line's state folder")
    return path


def require_file(path: Path, expected: str) -> None:
    """Raises StateError where it is not there, or in a folder that one may not enter."""
    try:
        there = path.is_file()
    except OSError as error:
        raise StateError(
            f"cannot be read: {error.strerror}", file=path, expected=expected
        ) from error
    if not there:
        raise StateError("is not there", file=path, expected=expected)


def _unusable(path: Path, error: sqlite3.Error) -> StateError:
    return StateError(f"cannot be read: {error}", file=path, expected="an outbox of this version")


def _one(db: sqlite3.Connection, query: str, *values: object) -> Any:
    return db.execute(query, values).fetchone()[0]
