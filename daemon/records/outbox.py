"""The outbox: events on disk from their commit until every sink has them.

One thread with one connection. Commits are in groups, since each costs an fsync of some
milliseconds: what came in, what was acknowledged and what has to go for it is one transaction.
While the disk takes nothing, events wait in memory and are tried again each second.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from adapters.ports import Event, Refusal
from daemon.errors import StateError
from daemon.records import outbox_rescue
from daemon.records.outbox_commit import Acknowledge, commit
from daemon.records.outbox_file import Damage, OutboxFile, damaged, is_full, no_disk
from daemon.records.outbox_losses import Losses
from daemon.records.outbox_rescue import Mark
from daemon.records.outbox_room import Put
from daemon.records.outbox_schema import KINDS, Kind, decode, encode, kind_of
from daemon.records.reported import Reported, reported

GROUP = 256  # events in a commit at most
MOST_IN_MEMORY = 4096  # events, for a disk that takes nothing
RETRY_SECONDS = 1.0
EXPIRE_SECONDS = 60.0

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    seq: int
    event: Event


_Work = Put | Acknowledge | Callable[[], None] | None
"""What the thread is given: something to write, a question to answer, or None to end."""


class Outbox:
    def __init__(
        self,
        path: Path,
        max_bytes: int,
        max_age_hours: float,
        sinks: Sequence[str],
        shed_first: Sequence[Kind] = KINDS,
    ) -> None:
        """`max_age_hours` count while the line runs; `shed_first` names every kind, what goes first
        where there is no room first.

        Raises StateError where the file cannot be opened or is not ours. Where there is a file and
        the disk takes nothing, the outbox begins in memory.
        """
        self.path = path
        self.losses = Losses()
        self.on_commit: list[Callable[[], None]] = []
        """Called from the outbox's thread after each commit of events."""
        self.on_no_disk: Callable[[], None] = lambda: None
        """Called from the outbox's thread each second in which the disk is full."""
        self.died: Future[None] = Future()
        """Ends with what nobody foresaw; from then on nothing is stored."""
        self._max_bytes, self._age_s = max_bytes, max_age_hours * 3600
        self._sinks, self._shed_first = tuple(sinks), tuple(shed_first)
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._pending: list[Put | Acknowledge] = []
        """Not committed yet; longer than for a round only while the disk takes nothing."""
        self._dropped: list[Reported] = []
        """What was given up in memory, and is told of as shed with the next commit."""
        self._file: OutboxFile | None = None
        self._tried_s = self._expired_s = -EXPIRE_SECONDS
        self._clock_s: float | None = None
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(opened,), name="outbox")
        self._thread.start()
        try:
            opened.result()
        except (sqlite3.Error, OSError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise StateError(
                f"cannot be used: {problem}", file=path, expected="an outbox in a writable folder"
            ) from error

    def put(self, event: Event) -> None:
        """From any thread; never waits. Durable once `on_commit` was called."""
        self._write(event, None)

    def store(self, event: Event) -> Future[bool]:
        """As `put`, with the answer whether it is durable now; where it is not it is let go. From
        any thread."""
        durable: Future[bool] = Future()
        self._write(event, durable)
        return durable

    def after(self, sink: str, seq: int | None, limit: int) -> Future[list[Stored]]:
        """The sink's next events: those behind `seq`, or behind what it acknowledged (None)."""
        return self._ask(lambda: self._read(sink, seq, limit))

    def acknowledge(self, sink: str, up_to: int, refused: Sequence[Refusal] = ()) -> Future[None]:
        """The sink has everything up to this number; what it refused becomes dead letters."""
        letters = [
            Put(kind_of(r.event), encode(r.event), refused=(sink, r.reason)) for r in refused
        ]
        told = Acknowledge(sink, up_to, letters, Future())
        self._work.put(told)
        return told.done

    def depth(self) -> Future[int]:
        """Events that some sink does not have yet, on the disk or on their way there."""
        return self._ask(lambda: self._opened().depth() + len(self._puts()))

    def reported(self, camera: str) -> Future[Reported | None]:
        """What events have told of its frames; None where nothing is known of that."""
        return self._ask(lambda: self._opened().reported(camera))

    def settle(self, known: Reported) -> Future[None]:
        """Count on from here what events tell of a camera's frames."""
        return self._ask(partial(self._settle, known))

    def close(self) -> None:
        """Commits what was put, then closes. Blocks until done."""
        self._closed = True
        self._work.put(None)
        self._thread.join()

    def _write(self, event: Event, durable: "Future[bool] | None") -> None:
        kind, tells = kind_of(event), reported(event)
        problem = "came after the end" if self._closed else None
        if tells is not None and max(tells.epoch, tells.sequence) >> 63:
            problem = f"{event.id} has a number that no database holds"
        try:
            body = encode(event)
        except (TypeError, ValueError) as error:
            problem = f"{event.id} cannot be written: {error}"
        if problem is None:
            self._work.put(Put(kind, body, tells, durable))
            return
        shed = partial(self.losses.shed, Counter({kind: 1}), problem)
        if self._closed:
            shed()
        else:
            self._work.put(shed)
        _tell(durable, False)

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

    # From here on: the outbox's thread.

    def _live(self, opened: "Future[None]") -> None:
        try:
            self._run(opened)
        except BaseException as error:
            self._closed = True
            if not opened.done():
                opened.set_exception(error)
                return
            log.exception("outbox ended, and nobody foresaw why")
            self.died.set_exception(error)
            while (work := self._work.get()) is not None:  # until `close`: nobody waits for ever
                if isinstance(work, Put):
                    _tell(work.durable, False)
                elif isinstance(work, Acknowledge):
                    work.done.set_exception(sqlite3.OperationalError("the outbox has ended"))
                elif callable(work):
                    work()

    def _run(self, opened: "Future[None]") -> None:
        self._mark = Mark(self.path.with_name(f"{self.path.name}.mark"))
        try:
            self._open()
        except sqlite3.Error as error:
            if not (no_disk(error) and self.path.exists()):
                raise
            log.error("outbox not opened: the disk takes nothing", problem=str(error))
        opened.set_result(None)
        closing = False
        while not closing:
            work = list(self._next())
            closing = None in work
            self._pending += [w for w in work if isinstance(w, Put | Acknowledge)]
            if closing or time.monotonic() - self._tried_s >= RETRY_SECONDS:
                self._commit(last=closing)
            self._bound_memory()
            for question in work:
                if callable(question):
                    question()
        if self._file is not None:
            self._file.close()
        self._mark.close()
        if puts := self._puts():
            self.losses.shed(Counter(put.kind for put in puts), "no disk until the end")

    def _open(self) -> None:
        """Raises StateError, sqlite3.Error, OSError."""
        self._file = outbox_rescue.opened(self.path, self._max_bytes, self._mark)
        for sink, events in self._file.keep_sinks(self._sinks).items():
            log.warning("sink is no more", sink=sink, events_it_never_got=events)
        if self._clock_s is None:
            # A clock that neither goes back nor jumps: where the wall clock is set right an hour
            # after the boot, everything would look years old. It stands still while we do not run.
            self._clock_s = (self._file.newest() or time.time()) - time.monotonic()

    def _opened(self) -> OutboxFile:
        if self._file is None:
            raise sqlite3.OperationalError("the disk takes nothing")
        return self._file

    def _next(self) -> Iterator[_Work]:
        """What waits, of one round; all of it goes into one commit."""
        with contextlib.suppress(queue.Empty):
            yield self._work.get(timeout=RETRY_SECONDS if self._pending else EXPIRE_SECONDS)
            for _ in range(GROUP - 1):
                yield self._work.get_nowait()

    def _commit(self, *, last: bool) -> None:
        try:
            if self._file is None:
                self._open()
            self._commit_all(self._opened(), last=last)
        except (StateError, sqlite3.Error, OSError) as error:
            self._failed(error)

    def _commit_all(self, file: OutboxFile, *, last: bool) -> None:
        """Where it fails, all that is pending stays pending."""
        assert self._clock_s is not None
        now_s = time.monotonic()
        expires = now_s - self._expired_s >= EXPIRE_SECONDS
        if not (self._pending or expires or last):
            return
        at = self._clock_s + now_s
        done = commit(
            file, self._pending, self._dropped, self.losses, self._shed_first,
            at=at, older=at - self._age_s if expires else None, last=last,
        )  # fmt: skip
        self._mark.seq = done.last_seq
        self._tried_s = -RETRY_SECONDS
        self._expired_s = now_s if expires else self._expired_s
        self._dropped.clear()
        self.losses.written(done.shed, done.reason)
        if done.told:
            self.losses.said()
        pending, self._pending = self._pending, []
        for write in pending:
            if isinstance(write, Put):
                _tell(write.durable, write in done.kept)
            else:
                _tell(write.done, None)
        if done.kept or done.told:
            for committed in tuple(self.on_commit):
                committed()

    def _settle(self, known: Reported) -> None:
        file = self._opened()
        with file.transaction():
            file.settle(known)

    def _failed(self, error: Exception) -> None:
        self._tried_s = time.monotonic()
        log.error("outbox not written", problem=str(error), events_in_memory=len(self._puts()))
        if damaged(error):
            self._replace(str(error))
        elif no_disk(error) and is_full(self.path):
            self.on_no_disk()
        for put in self._puts():
            if put.durable is not None:  # whoever asked knows now, and will come again
                _tell(put.durable, False)
                self._pending.remove(put)

    def _replace(self, problem: str) -> None:
        """Where it fails, each round tries again to open what is there."""
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            self._file = outbox_rescue.replaced(self.path, self._max_bytes, self._mark, problem)
            self._file.keep_sinks(self._sinks)
        except (StateError, sqlite3.Error, OSError) as error:
            log.error("outbox not replaced", problem=str(error))

    def _puts(self) -> list[Put]:
        return [write for write in self._pending if isinstance(write, Put)]

    def _bound_memory(self) -> None:
        puts = self._puts()
        too_many = len(puts) - MOST_IN_MEMORY
        if too_many <= 0:
            return
        # What is worth least, and of that the newest.
        worth = {put: (self._shed_first.index(put.kind), -at) for at, put in enumerate(puts)}
        dropped = set(sorted(puts, key=worth.__getitem__)[:too_many])
        self._pending = [write for write in self._pending if write not in dropped]
        self._dropped += [put.tells for put in dropped if put.tells is not None]
        self.losses.shed(Counter(put.kind for put in dropped), "no disk")

    def _read(self, sink: str, seq: int | None, limit: int) -> list[Stored]:
        file = self._opened()
        try:
            after = file.cursors()[sink] if seq is None else seq
            rows, torn = file.rows(after, sink, limit)
            if torn:
                log.error("events are torn", seqs=torn)
                with file.transaction():
                    file.forget(torn)
                    file.damage(Damage("checksums are wrong", None, 0, len(torn)))
        except sqlite3.DatabaseError as error:
            if damaged(error):
                self._replace(str(error))
            raise
        return [Stored(row.seq, decode(row.body)) for row in rows]


def _tell(future: "Future[T] | None", value: T) -> None:
    """Once; and not where whoever asked has gone."""
    if future is not None:
        with contextlib.suppress(InvalidStateError):
            future.set_result(value)
