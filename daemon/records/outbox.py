"""The outbox: events on disk from their commit until the far end has them.

SQLite in one thread with one connection, WAL and synchronous=FULL: what is committed outlives a
kill and a power cut. Commits are in groups, since each costs an fsync of some milliseconds.
"""

import contextlib
import itertools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from adapters.ports import Event
from daemon.errors import StateError

GROUP = 256  # events in a commit at most
PAGE_BYTES = 4096
APPLICATION_ID = 0x434C5231  # "CLR1", in the file's header
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    body BLOB NOT NULL
)
"""

log = structlog.get_logger()
T = TypeVar("T")
Work = Event | Callable[[], None] | None
"""What the thread is given: an event to store, a question to answer, or None to end."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True, slots=True)
class Stored:
    seq: int
    event: Event


class Outbox:
    def __init__(self, path: Path, max_bytes: int, max_age_hours: float) -> None:
        """Raises StateError where the file cannot be opened or is no database."""
        self.path = path
        self.shed = 0
        """Events that found no room, or outlived their time: counted, and said in the log."""
        self.on_commit: Callable[[], None] = lambda: None
        """Called from the outbox's thread after each commit."""
        self._pages, self._age = max_bytes // PAGE_BYTES, max_age_hours * 3600
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="outbox")
        self._thread.start()
        try:
            opened.result()
        except sqlite3.Error as error:
            raise StateError(
                f"cannot be used: {error}", file=path, expected="an outbox in a writable folder"
            ) from error

    def put(self, event: Event) -> None:
        """From any thread; never waits. Durable once `on_commit` was called."""
        if self._closed:
            self._shed(1, "came after the outbox was closed")
            return
        self._work.put(event)

    def store(self, event: Event) -> Future[bool]:
        """As `put`, with the answer whether it is durable now. From any thread."""
        return self._ask(lambda: self._insert([event]))

    def oldest(self, limit: int) -> Future[list[Stored]]:
        return self._ask(lambda: self._select(limit))

    def acknowledge(self, up_to: int) -> Future[int]:
        """Forget what the far end has: everything up to this sequence number."""
        return self._ask(lambda: self._delete("seq <= ?", up_to))

    def depth(self) -> Future[int]:
        return self._ask(lambda: int(self._db.execute("SELECT count(*) FROM events").fetchone()[0]))

    def close(self) -> None:
        """Commits what was put, then closes. Blocks until done."""
        self._closed = True
        self._work.put(None)
        self._thread.join()

    def _ask(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return  # whoever asked has gone
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 (it is the asker's)
                future.set_exception(error)

        self._work.put(answer)
        return future

    def _run(self, opened: "Future[None]") -> None:
        """The thread: events in groups, and between them what others ask."""
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._claim()
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                "journal_mode = WAL",
                "synchronous = FULL",
                f"max_page_count = {self._pages}",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.execute(SCHEMA)
        except sqlite3.Error as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        closing = False
        while not closing:
            work = [self._work.get(), *self._more(GROUP - 1)]
            for are_events, items in itertools.groupby(work, lambda w: isinstance(w, Event)):
                if are_events:
                    self._insert([item for item in items if isinstance(item, Event)])
                    continue
                for item in items:
                    if callable(item):
                        item()
                    closing = closing or item is None
        self._db.close()

    def _claim(self) -> None:
        """A new file becomes ours; one that another program made is not touched."""
        (owner,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if owner != APPLICATION_ID and (owner or tables):
            raise sqlite3.DatabaseError("it is another program's database")
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _more(self, limit: int) -> Iterator[Work]:
        """What else is waiting already."""
        with contextlib.suppress(queue.Empty):
            for _ in range(limit):
                yield self._work.get_nowait()

    def _insert(self, events: Sequence[Event]) -> bool:
        """One commit. Where there is no room the events are shed, counted and said: False."""
        now = time.time()
        rows = [(now, body) for body in map(self._encoded, events) if body is not None]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO events (at, body) VALUES (?, ?)", rows)
            outlived = self._delete("at < ?", now - self._age)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._shed(len(rows), str(error))
            return False
        if outlived:
            self._shed(outlived, "outlived their time")
        self.on_commit()
        return len(rows) == len(events)

    def _encoded(self, event: Event) -> bytes | None:
        try:
            return _encode(event)
        except (TypeError, ValueError) as error:
            self._shed(1, f"cannot be written as JSON: {error}")
            return None

    def _shed(self, events: int, reason: str) -> None:
        self.shed += events
        log.warning("events shed", reason=reason, events=events, in_all=self.shed)

    def _select(self, limit: int) -> list[Stored]:
        rows = self._db.execute("SELECT seq, body FROM events ORDER BY seq LIMIT ?", (limit,))
        return [Stored(seq, _decode(body)) for seq, body in rows]

    def _delete(self, where: str, value: float) -> int:
        return self._db.execute(f"DELETE FROM events WHERE {where}", (value,)).rowcount
