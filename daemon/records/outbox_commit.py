"""One commit of the outbox: what came in, what was acknowledged, what must go; all or nothing."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from daemon.records.outbox_file import OutboxFile
from daemon.records.outbox_losses import Losses
from daemon.records.outbox_room import Put, fits, fitting
from daemon.records.outbox_schema import Kind, encode, kind_of
from daemon.records.reported import Reported


@dataclass(frozen=True, slots=True, eq=False)
class Acknowledge:
    """A sink has everything up to a number, but for what it refused."""

    sink: str
    up_to: int
    letters: Sequence[Put]
    done: "Future[None]"


@dataclass(frozen=True, slots=True)
class Committed:
    kept: frozenset[Put]
    """Of the events, dead letters among them; the others were given up."""
    shed: Counter[Kind]
    reason: str
    told: bool
    """An event says what was lost."""
    last_seq: int


def commit(
    file: OutboxFile,
    pending: Sequence[Put | Acknowledge],
    dropped: Sequence[Reported],
    losses: Losses,
    shed_first: Sequence[Kind],
    *,
    at: float,
    older: float | None,
    last: bool,
) -> Committed:
    """`dropped`: what was given up in memory. `at`: the outbox's clock; `older` events than this
    have outlived their time (None: not looked at). `last`: losses are said now or later than never.

    Raises sqlite3.Error, and then nothing of it happened.
    """
    puts = [write for write in pending if isinstance(write, Put)]
    letters: list[Put] = []
    with file.transaction():
        for write in pending:
            if isinstance(write, Acknowledge):
                file.advance(write.sink, write.up_to)
                letters += write.letters
        outlived = Counter[Kind]() if older is None else file.expire(older)
        kept, shed = fitting([*letters, *puts], file, shed_first)
        for put in kept:
            if put.refused is not None:
                file.bury(at, put.kind, *put.refused, put.body)
        file.insert([(at, put.kind, put.body) for put in kept if put.refused is None])
        # Also of what is given up: that is said as well.
        for tells in (*dropped, *(put.tells for put in puts)):
            if tells is not None:
                file.report(tells)
        reason = "no room" if shed else "outlived their time"
        losses.write(file, shed + outlived, reason)
        said = [Put(kind_of(event), encode(event)) for event in losses.to_say(file, now=last)]
        told = bool(said) and fits(said, file)
        if told:
            file.insert([(at, put.kind, put.body) for put in said])
            file.told_of_losses()
        last_seq = file.last_seq()
    return Committed(frozenset(kept), shed + outlived, reason, told, last_seq)
