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
from daemon.records.outbox_file import (
    KINDS,
    Kind,
    damaged,
    decode,
    encode,
    kind_of,
)
from daemon.records.outbox_losses import Losses
from daemon.records.outbox_rescue import Damage, Mark
from daemon.records.outbox_room import Put, fitting
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


@dataclass(frozen=True, slots=True, eq=False)
class _Acknowledge:
    sink: str
    up_to: int
    refused: Sequence[Refusal]
    done: "Future[None]"


_Work = Put | _Acknowledge | Callable[[], None] | None
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
        """`shed_first`: every kind, what goes first when there is no room first.

        Raises StateError where the file cannot be opened or is not ours.
        """
        self.path = path
        self.losses = Losses()
        self.on_commit: list[Callable[[], None]] = []
        """Called from the outbox's thread after each commit of events."""
        self.on_no_disk: Callable[[], None] = lambda: None
        """Called from the outbox's thread each second in which the disk takes nothing."""
        self._max_bytes, self._age_s = max_bytes, max_age_hours * 3600
        self._shed_first = tuple(shed_first)
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._pending: list[Put | _Acknowledge] = []
        """Not committed yet; longer than for a round only while the disk takes nothing."""
        self._tried_s = self._expired_s = -EXPIRE_SECONDS
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened, sinks), name="outbox")
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
        """As `put`, with the answer whether it is durable now. From any thread."""
        durable: Future[bool] = Future()
        self._write(event, durable)
        return durable

    def after(self, sink: str, seq: int | None, limit: int) -> Future[list[Stored]]:
        """The sink's next events: those behind `seq`, or behind what it acknowledged (None)."""
        return self._ask(lambda: self._read(sink, seq, limit))

    def acknowledge(self, sink: str, up_to: int, refused: Sequence[Refusal] = ()) -> Future[None]:
        """The sink has everything up to this number; what it refused becomes dead letters."""
        done: Future[None] = Future()
        self._work.put(_Acknowledge(sink, up_to, refused, done))
        return done

    def depth(self) -> Future[int]:
        """Events that some sink does not have yet, on the disk or on their way there."""
        return self._ask(lambda: self._file.depth() + len(self._puts()))

    def reported(self, camera: str) -> Future[Reported | None]:
        """What events have told of its frames; None where nothing is known of that."""
        return self._ask(lambda: self._file.reported(camera))

    def settle(self, known: Reported) -> Future[None]:
        """Count on from here what events tell of a camera's frames."""
        return self._ask(partial(self._settle, known))

    def close(self) -> None:
        """Commits what was put, then closes. Blocks until done."""
        self._closed = True
        self._work.put(None)
        self._thread.join()

    def _write(self, event: Event, durable: "Future[bool] | None") -> None:
        kind = kind_of(event)
        try:
            put = Put(kind, encode(event), reported(event), durable)
        except (TypeError, ValueError) as error:
            self._ask(partial(self.losses.shed, Counter({kind: 1}), f"{event.id}: {error}"))
            _tell(durable, False)
            return
        if self._closed:
            self.losses.shed(Counter({kind: 1}), "came after the end")
            _tell(durable, False)
            return
        self._work.put(put)

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

    def _run(self, opened: "Future[None]", sinks: Sequence[str]) -> None:
        try:
            self._mark = Mark(self.path.with_name(f"{self.path.name}.mark"))
            self._open(sinks, anew=False, problem="")
        except (StateError, sqlite3.Error, OSError) as error:
            opened.set_exception(error)
            return
        # Ages are counted on a clock that neither goes back nor jumps while we run: where the wall
        # clock is set right an hour after the boot, everything would look years old.
        self._clock_s = max(time.time(), self._file.newest()) - time.monotonic()
        opened.set_result(None)
        closing = False
        while not closing:
            work = list(self._next())
            closing = None in work
            self._pending += [w for w in work if isinstance(w, Put | _Acknowledge)]
            if closing or time.monotonic() - self._tried_s >= RETRY_SECONDS:
                self._commit(last=closing)
            self._bound_memory()
            for question in work:
                if callable(question):
                    question()
        self._file.close()
        self._mark.close()
        if puts := self._puts():
            self.losses.shed(Counter(put.kind for put in puts), "no disk until the end")

    def _open(self, sinks: Sequence[str], *, anew: bool, problem: str) -> None:
        """`anew`: the file is known to be damaged, by this problem."""
        damage: Damage | None
        if anew:
            self._file, damage = outbox_rescue.replaced(
                self.path, self._max_bytes, self._mark, problem
            )
        else:
            self._file, damage = outbox_rescue.opened(self.path, self._max_bytes, self._mark)
        with self._file.transaction():
            self._file.keep_sinks(sinks)
        self._sinks = sinks
        if damage is not None:
            self.losses.damaged(damage)

    def _next(self) -> Iterator[_Work]:
        """What waits, of one round; all of it goes into one commit."""
        with contextlib.suppress(queue.Empty):
            yield self._work.get(timeout=RETRY_SECONDS if self._pending else EXPIRE_SECONDS)
            for _ in range(GROUP - 1):
                yield self._work.get_nowait()

    def _commit(self, *, last: bool) -> None:
        """One transaction of all that is pending. Where it fails, all of it stays pending."""
        said = [Put(kind_of(e), encode(e), None) for e in self.losses.to_say(now=last)]
        expires = time.monotonic() - self._expired_s >= EXPIRE_SECONDS
        if not (self._pending or said or expires):
            return
        puts = self._puts()
        now = self._clock_s + time.monotonic()
        try:
            with self._file.transaction():
                for told in self._pending:
                    if isinstance(told, _Acknowledge):
                        self._acknowledge(told, now)
                outlived = self._file.expire(now - self._age_s) if expires else Counter[Kind]()
                kept, shed = fitting([*puts, *said], self._file, self._shed_first)
                self._file.insert([(now, put.kind, None, put.body) for put in kept])
                for put in puts:  # also of what is given up: that is said as well
                    if put.tells is not None:
                        self._file.report(put.tells)
                last_seq = self._file.last_seq()
        except sqlite3.Error as error:
            self._failed(error)
            return
        self._mark.seq = last_seq
        self._tried_s = -RETRY_SECONDS
        if expires:
            self._expired_s = time.monotonic()
        if said and said[-1] in kept:
            self.losses.said()
        shed.subtract(put.kind for put in said if put not in kept)  # it is said later
        for lost, reason in ((+shed, "no room"), (outlived, "outlived their time")):
            if lost:
                self.losses.shed(lost, reason)
        written = set(kept)
        pending, self._pending = self._pending, []
        for one in pending:
            if isinstance(one, Put):
                _tell(one.durable, one in written)
            else:
                _tell(one.done, None)
        if kept:
            for committed in tuple(self.on_commit):
                committed()

    def _settle(self, known: Reported) -> None:
        with self._file.transaction():
            self._file.settle(known)

    def _acknowledge(self, told: _Acknowledge, now: float) -> None:
        for refusal in told.refused:
            event = refusal.event
            self._file.bury(now, kind_of(event), told.sink, refusal.reason, encode(event))
        self._file.advance(told.sink, told.up_to)

    def _failed(self, error: sqlite3.Error) -> None:
        self._tried_s = time.monotonic()
        log.error("outbox not written", problem=str(error), events_in_memory=len(self._puts()))
        closed = isinstance(error, sqlite3.ProgrammingError)  # the last replacement failed
        if damaged(error) or closed:
            self._reopen(str(error), anew=not closed)
        else:
            self.on_no_disk()
        for write in self._pending:
            if isinstance(write, Put):
                _tell(write.durable, False)

    def _reopen(self, problem: str, *, anew: bool) -> None:
        self._file.close()
        try:
            self._open(self._sinks, anew=anew, problem=problem)
        except (StateError, sqlite3.Error, OSError) as error:
            log.error("outbox not replaced", problem=str(error))

    def _puts(self) -> list[Put]:
        return [write for write in self._pending if isinstance(write, Put)]

    def _bound_memory(self) -> None:
        while len(puts := self._puts()) > MOST_IN_MEMORY:
            least = min(reversed(puts), key=lambda put: self._shed_first.index(put.kind))
            self._pending.remove(least)
            self.losses.shed(Counter({least.kind: 1}), "no disk")

    def _read(self, sink: str, seq: int | None, limit: int) -> list[Stored]:
        try:
            after = self._file.cursors()[sink] if seq is None else seq
            rows, torn = self._file.rows(after, sink, limit)
            if torn:
                with self._file.transaction():
                    self._file.forget(torn)
                self.losses.damaged(Damage("checksums are wrong", None, 0, len(torn)))
        except sqlite3.DatabaseError as error:
            if damaged(error):
                self._reopen(str(error), anew=True)
            raise
        return [Stored(row.seq, decode(row.body)) for row in rows]


def _tell(future: "Future[T] | None", value: T) -> None:
    """Once; and not where whoever asked has gone."""
    if future is not None:
        with contextlib.suppress(InvalidStateError):
            future.set_result(value)
