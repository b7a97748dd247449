"""The outbox: an event is on disk from its commit until the far end has it, or is counted."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.ports import Event
from daemon.errors import StateError
from daemon.records.outbox import GROUP, Outbox, Stored

ROOM = 1 << 28
MakeEvent = Callable[..., Event]


@contextmanager
def opened(
    path: Path, max_bytes: int = ROOM, max_age_hours: float = 1.0
) -> Iterator[tuple[Outbox, threading.Semaphore]]:
    """An outbox and its commits, to be waited for."""
    outbox = Outbox(path, max_bytes, max_age_hours)
    commits = threading.Semaphore(0)
    outbox.on_commit = commits.release
    try:
        yield outbox, commits
    finally:
        outbox.on_commit = lambda: None
        outbox.close()


def all_in(outbox: Outbox) -> list[Stored]:
    return outbox.oldest(100_000).result(20)


def numbers(outbox: Outbox) -> list[int]:
    return [stored.event.data["number"] for stored in all_in(outbox)]


def test_events_come_out_as_they_were_put_and_in_their_order(
    tmp_path: Path, event: MakeEvent
) -> None:
    events = [event(k) for k in range(2 * GROUP + 7)]
    with opened(tmp_path / "outbox") as (outbox, _):
        for one in events:
            outbox.put(one)
        stored = all_in(outbox)
        assert [s.event for s in stored] == events
        assert [s.seq for s in stored] == list(range(1, len(events) + 1))
        assert outbox.depth().result(20) == len(events)
        assert [s.seq for s in outbox.oldest(3).result(20)] == [1, 2, 3]


def test_what_waits_is_committed_in_one_group(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as (outbox, _):
        busy, go_on, commits = threading.Event(), threading.Event(), []

        def committed() -> None:
            commits.append(1)
            busy.set()
            go_on.wait(20)

        outbox.on_commit = committed
        outbox.put(event(0))
        assert busy.wait(20)
        for k in range(1, 101):
            outbox.put(event(k))
        go_on.set()
        assert outbox.depth().result(20) == 101
        assert len(commits) == 2


def test_what_is_acknowledged_is_forgotten_and_no_number_is_given_again(
    tmp_path: Path, event: MakeEvent
) -> None:
    path = tmp_path / "outbox"
    with opened(path) as (outbox, _):
        for k in range(5):
            outbox.put(event(k))
        assert outbox.acknowledge(all_in(outbox)[2].seq).result(20) == 3
        assert numbers(outbox) == [3, 4]
        assert outbox.acknowledge(5).result(20) == 2
        assert outbox.depth().result(20) == 0
    with opened(path) as (outbox, _):
        outbox.put(event(5))
        assert [s.seq for s in all_in(outbox)] == [6]


def test_committed_events_outlive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from adapters.ports import Event\nfrom daemon.records.outbox import Outbox\n"
        "outbox, told = Outbox(Path(sys.argv[1]), 1 << 28, 1.0), threading.Event()\n"
        "outbox.on_commit = told.set\n"
        "for k in range(100000):\n"
        "    told.clear()\n"
        "    outbox.put(Event(str(k), 'clearline.line.v1', '', '', '', 1, {'number': k}))\n"
        "    told.wait()\n"
        "    print(k, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            seen = int(line)
            if seen == 20:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    with opened(path) as (outbox, _):
        kept = numbers(outbox)
    assert kept == list(range(len(kept)))
    assert len(kept) > seen


def test_a_commit_is_on_the_disk_and_not_only_with_the_kernel(tmp_path: Path) -> None:
    """A power cut cannot be tested here; that SQLite was asked for it can."""
    with opened(tmp_path / "outbox") as (outbox, _):
        asked = outbox._ask(
            lambda: [
                outbox._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            ]
        )
        assert asked.result(20) == ["wal", 2]


def test_close_commits_what_was_put(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as (outbox, _):
        for k in range(500):
            outbox.put(event(k))
    with opened(tmp_path / "outbox") as (outbox, _):
        assert numbers(outbox) == list(range(500))


def test_a_full_outbox_sheds_and_counts_and_goes_on_once_there_is_room(
    tmp_path: Path, event: MakeEvent
) -> None:
    with opened(tmp_path / "outbox", max_bytes=1 << 17) as (outbox, _):
        for k in range(60):
            outbox.put(event(k, filling=4000))
            outbox.depth().result(20)  # a commit each, so that only what has no room is shed
        kept = numbers(outbox)
        assert kept == list(range(len(kept)))
        assert 20 < len(kept) < 60
        assert outbox.shed == 60 - len(kept)
        assert (tmp_path / "outbox").stat().st_size <= 1 << 17
        outbox.acknowledge(len(kept)).result(20)
        outbox.put(event(60, filling=4000))
        assert numbers(outbox) == [60]
        assert outbox.shed == 60 - len(kept)


def test_what_outlived_its_time_is_shed_and_counted(
    tmp_path: Path, event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr("daemon.records.outbox.time.time", lambda: now[0])
    with opened(tmp_path / "outbox", max_age_hours=2.0) as (outbox, _):
        outbox.put(event(0))
        outbox.depth().result(20)
        now[0] += 3600
        outbox.put(event(1))
        assert numbers(outbox) == [0, 1]
        now[0] += 3601
        outbox.put(event(2))
        assert numbers(outbox) == [1, 2]
        assert outbox.shed == 1


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_corrupt_file_is_a_state_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(content)
    with pytest.raises(StateError) as refused:
        Outbox(path, ROOM, 1.0)
    assert str(path) in str(refused.value)
    assert "expected an outbox in a writable folder" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_of_someone_else_is_a_state_error(tmp_path: Path) -> None:
    """Else every event would be shed, one by one."""
    path = tmp_path / "outbox"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE events (id TEXT, what TEXT)")
    database.close()
    outbox = None
    try:
        with pytest.raises(StateError):
            outbox = Outbox(path, ROOM, 1.0)
    finally:
        if outbox is not None:
            outbox.close()


@pytest.mark.parametrize("place", ["none/outbox", "file/outbox", "folder"])
def test_a_place_that_is_not_writable_is_a_state_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match="unable to open"):
        Outbox(tmp_path / place, ROOM, 1.0)


def test_what_is_put_after_the_close_is_counted_as_shed(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as (outbox, _):
        outbox.close()
        outbox.put(event(0))
        assert outbox.shed == 1


def test_a_question_that_was_given_up_does_not_end_the_outbox(
    tmp_path: Path, event: MakeEvent
) -> None:
    """A stop cancels the drainer while it waits for the disk; the stop itself asks on."""
    outbox = Outbox(tmp_path / "outbox", ROOM, 1.0)
    busy, go_on = threading.Event(), threading.Event()

    def committed() -> None:
        busy.set()
        go_on.wait(20)

    outbox.on_commit = committed
    outbox.put(event(0))
    assert busy.wait(20)
    assert outbox.oldest(10).cancel()
    depth = outbox.depth()
    threads_fault, before = [], threading.excepthook
    threading.excepthook = threads_fault.append
    try:
        go_on.set()
        assert depth.result(2) == 1
    finally:
        outbox.close()
        threading.excepthook = before
    assert not threads_fault


def test_an_event_that_cannot_be_written_down_costs_no_other(
    tmp_path: Path, event: MakeEvent
) -> None:
    """A file name that is no UTF-8, say, in a camera's problem."""
    outbox = Outbox(tmp_path / "outbox", ROOM, 1.0)
    threads_fault, before = [], threading.excepthook
    threading.excepthook = threads_fault.append
    try:
        outbox.put(
            Event("1", "clearline.line.v1", "", "", "", 1, {"problem": os.fsdecode(b"\xff")})
        )
        outbox.put(event(1))
        assert outbox.depth().result(2) >= 1
    finally:
        outbox.close()
        threading.excepthook = before
    assert not threads_fault
