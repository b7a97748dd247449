"""An outbox read from outside: each event once and in order, whatever becomes of the file."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plant.events import defect

from daemon.errors import StateError
from daemon.records import outbox_rescue
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import DELIVERED_KEPT, OutboxFile, Row
from daemon.records.outbox_rescue import Mark
from daemon.records.outbox_schema import checksum
from daemon.watch import outbox_tail
from daemon.watch.outbox_tail import EventsMissed, Line, OutboxTail

ROOM = 1 << 28
LIMIT_S = 60


@contextmanager
def opened(path: Path) -> Iterator[Outbox]:
    outbox = Outbox(path, ROOM, 1.0, ["here"])
    try:
        yield outbox
    finally:
        outbox.close()


def put(outbox: Outbox, numbers: range) -> None:
    """On the disk when it returns."""
    for durable in [outbox.store(defect(number)) for number in numbers]:
        assert durable.result(LIMIT_S)


def seen(lines: list[Line]) -> list[int]:
    assert not [line for line in lines if isinstance(line, EventsMissed)]
    return [line["data"]["sequence"] for line in lines if isinstance(line, dict)]


def anything(_: object) -> bool:
    return True


def test_each_event_comes_once_and_in_order_while_the_outbox_is_filled_and_emptied(
    tmp_path: Path,
) -> None:
    """The outbox runs ahead of the reader, but not by more than what it keeps for it."""
    count, ahead = 4000, threading.Semaphore(DELIVERED_KEPT - 100)
    tail = OutboxTail(tmp_path / "outbox.sqlite")

    def fill() -> None:
        for number in range(count):
            assert ahead.acquire(timeout=LIMIT_S)
            outbox.put(defect(number))
            if number % 300 == 299:
                outbox.acknowledge("here", number + 1)

    with opened(tail._path) as outbox:
        filler = threading.Thread(target=fill)
        filler.start()
        found: list[int] = []
        while len(found) < count:
            more = seen(tail.read())
            found += more
            if more:
                ahead.release(len(more))
        filler.join()
    assert found == list(range(count))


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "deliver", "read", "restart", "replace"]),
                  st.integers(1, 40)),
        max_size=25,
    )
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_no_event_is_shown_twice_and_none_that_is_missed_goes_unsaid(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("state") / "outbox.sqlite"
    tail, shown, missed, count = OutboxTail(path), [], 0, 0

    def read() -> None:
        nonlocal missed
        for line in tail.read():
            if isinstance(line, dict):
                shown.append(line["data"]["sequence"])
            else:
                missed += int(str(line).split("lacks ")[1].split()[0])

    outbox = Outbox(path, ROOM, 1.0, ["here"])
    try:
        read()
        for step, n in steps:
            match step:
                case "put":
                    put(outbox, range(count, count + n))
                    count += n
                case "deliver":
                    outbox.acknowledge("here", min(n, count)).result(LIMIT_S)
                case "read":
                    read()
                case "restart":
                    outbox.close()
                    outbox = Outbox(path, ROOM, 1.0, ["here"])
                case "replace":
                    outbox.close()
                    set_aside(path)
                    outbox = Outbox(path, ROOM, 1.0, ["here"])
        put(outbox, range(count, count + 1))
        read()
    finally:
        outbox.close()
    assert shown == sorted(set(shown))
    assert shown[-1] == count
    assert len(shown) + missed <= count + 1
    if not any(step == "replace" for step, _ in steps):
        assert shown == list(range(count + 1))


def set_aside(path: Path) -> None:
    """As if it were damaged: what waits is carried over, what was kept for onlookers is not."""
    mark = Mark(path.with_name(f"{path.name}.mark"))
    file = outbox_rescue.replaced(path, ROOM, mark, "damaged for a test")
    file.close()
    mark.close()


def test_the_last_ones_that_are_wanted_come_first(tmp_path: Path) -> None:
    """However far back they are."""
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(outbox_tail.AT_ONCE * 2 + 7))
        found = tail.last(3, lambda event: event["data"]["sequence"] % 400 == 5)
        assert seen(found) == [5, 405, 805]
        put(outbox, range(5000, 5003))
        assert seen(tail.read()) == [5000, 5001, 5002]
        assert tail.read() == []


def test_what_is_delivered_and_deleted_between_two_looks_is_said(tmp_path: Path) -> None:
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(3))
        assert seen(tail.last(10, anything)) == [0, 1, 2]
        put(outbox, range(3, 1503))
        outbox.acknowledge("here", 1503).result(LIMIT_S)
        missed, *rest = tail.read()
        assert isinstance(missed, EventsMissed)
        assert "lacks 500 events" in str(missed)
        assert seen(rest) == list(range(503, 1503))


def test_events_of_a_file_that_takes_the_place_of_a_damaged_one_come_once(tmp_path: Path) -> None:
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(300))
        assert seen(tail.last(300, anything)) == list(range(300))
        put(outbox, range(300, 310))  # not yet shown
    set_aside(tail._path)
    with opened(tail._path) as outbox:
        put(outbox, range(310, 320))
        assert seen(tail.read()) == list(range(300, 320))


def test_while_a_damaged_file_is_carried_over_nothing_is_shown_twice(tmp_path: Path) -> None:
    """Events come back in turn; a reader that looks in between sees some of them only."""
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(20))
        assert seen(tail.last(20, anything)) == list(range(20))
        put(outbox, range(20, 25))
    with closing(OutboxFile(tail._path)) as old:
        old.keep_sinks(["here"])
        rows: list[Row] = old.rows(0, "here", 100)[0]
    for file in tmp_path.glob("outbox.sqlite*"):
        file.unlink()
    with closing(OutboxFile(tail._path, ROOM)) as new:
        assert tail.read() == []
        for batch in (rows[:10], rows[10:22], rows[22:]):
            with new.transaction():
                new.carry(
                    "events",
                    [(r.seq, r.at, r.kind, r.sink, _sum(r), r.body) for r in batch],
                )
            found = seen(tail.read())
            assert found == [row.seq - 1 for row in batch if row.seq > 20]


def test_a_new_outbox_in_the_place_of_another_is_shown_from_its_beginning(tmp_path: Path) -> None:
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(9))
        tail.read()
    for file in tmp_path.glob("outbox.sqlite*"):
        file.unlink()
    with opened(tail._path) as outbox:
        put(outbox, range(100, 103))
        assert seen(tail.read()) == [100, 101, 102]


def test_a_file_that_is_locked_is_an_error_until_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_tail, "BUSY_S", 0.05)
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(2))
    with closing(sqlite3.connect(tail._path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("DELETE FROM dead_letters")
        with pytest.raises(StateError, match="locked"):
            tail.read()
    assert seen(tail.read()) == [0, 1]


def test_nothing_and_no_database_are_errors(tmp_path: Path) -> None:
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with pytest.raises(StateError, match="is not there"):
        tail.last(1, anything)
    tail._path.write_bytes(b"no database" * 1000)
    with pytest.raises(StateError, match="cannot be read"):
        tail.read()


def test_an_event_that_is_not_what_was_written_is_said_and_the_others_are_shown(
    tmp_path: Path,
) -> None:
    tail = OutboxTail(tmp_path / "outbox.sqlite")
    with opened(tail._path) as outbox:
        put(outbox, range(3))
    with closing(sqlite3.connect(tail._path, isolation_level=None)) as db:
        db.execute("UPDATE events SET body = '{}' WHERE seq = 2")
    first, torn, third = tail.read()
    assert seen([first, third]) == [0, 2]
    assert "event = 2" in str(torn)
    assert [str(line) for line in OutboxTail(tail._path).last(3, lambda _: False)] == [str(torn)]


def _sum(row: Row) -> int:
    return checksum(row.kind, row.sink, row.body)
