"""Room in a full outbox: what goes first is what the operator said may go first."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from daemon.records.outbox_file import OutboxFile
from daemon.records.outbox_schema import PAGE_BYTES, Kind
from daemon.records.reported import Reported


@dataclass(frozen=True, slots=True, eq=False)
class Put:
    """An event on its way into the file."""

    kind: Kind
    body: bytes
    tells: Reported | None = None
    durable: "Future[bool] | None" = None
    """Who waits for the answer, if anyone."""
    refused: tuple[str, str] | None = None
    """By which sink and why: it goes to the dead letters."""


def fitting(
    puts: Sequence[Put], file: OutboxFile, shed_first: Sequence[Kind]
) -> tuple[list[Put], Counter[Kind]]:
    """Those for which there is room, once what is worth less was given up; and what was.

    Of what is worth the same, the newest goes: what was committed is a promise. Within a
    transaction of the outbox's thread. Raises sqlite3.Error.
    """
    kept: list[Put] = []
    shed: Counter[Kind] = Counter()
    for put in puts:
        if _pages([put]) <= file.most_pages():
            kept.append(put)
        else:
            shed[put.kind] += 1
    while kept and file.free_pages() < _pages(kept):
        if file.drop_delivered():
            continue
        least = min((put.kind for put in kept), key=shed_first.index)
        for kind in shed_first[: shed_first.index(least)]:
            if dropped := file.drop_oldest(kind, len(kept)):
                shed[kind] += dropped
                break
        else:
            newest = max(place for place, put in enumerate(kept) if put.kind == least)
            del kept[newest]
            shed[least] += 1
    return kept, shed


def fits(puts: Sequence[Put], file: OutboxFile) -> bool:
    """Without anything having to go that somebody waits for."""
    return file.free_pages() >= _pages(puts) or (
        file.drop_delivered() > 0 and file.free_pages() >= _pages(puts)
    )


def _pages(puts: Sequence[Put]) -> int:
    """At most so many are written: a page holds one row of 2 KB only, the index takes some."""
    return 8 + 2 * sum(len(put.body) + 64 for put in puts) // PAGE_BYTES
