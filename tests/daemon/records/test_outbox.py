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
def opened(path: Path, max_bytes: int = ROOM, max_age_hours: float = 1.0) -> Iterator[Outbox]:
    outbox = Outbox(path, max_bytes, max_age_hours, ["here"])
    try:
        yield outbox
    finally:
        outbox.close()


def all_in(outbox: Outbox) -> list[Stored]:
    return outbox.after("here", None, 100_000).result(20)


def numbers(outbox: Outbox) -> list[int]:
    return [stored.event.data["number"] for stored in all_in(outbox)]


def test_events_come_out_as_they_were_put_and_in_their_order(
    tmp_path: Path, event: MakeEvent
) -> None:
    events = [event(k) for k in range(2 * GROUP + 7)]
    with opened(tmp_path / "outbox") as outbox:
        for one in events:
            outbox.put(one)
        stored = all_in(outbox)
        assert [s.event for s in stored] == events
        assert [s.seq for s in stored] == list(range(1, len(events) + 1))
        assert outbox.depth().result(20) == len(events)
        assert [s.seq for s in outbox.after("here", None, 3).result(20)] == [1, 2, 3]


def test_what_waits_is_committed_in_one_group(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as outbox:
        busy, go_on, commits = threading.Event(), threading.Event(), []

        def committed() -> None:
            commits.append(1)
            busy.set()
            go_on.wait(20)

        outbox.on_commit.append(committed)
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
    with opened(path) as outbox:
        for k in range(5):
            outbox.put(event(k))
        outbox.acknowledge("here", all_in(outbox)[2].seq).result(20)
        assert numbers(outbox) == [3, 4]
        outbox.acknowledge("here", 5).result(20)
        assert outbox.depth().result(20) == 0
    with opened(path) as outbox:
        outbox.put(event(5))
        assert [s.seq for s in all_in(outbox)] == [6]


def test_committed_events_outlive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from adapters.ports import Event\nfrom daemon.records.outbox import Outbox\n"
        "outbox, told = Outbox(Path(sys.argv[1]), 1 << 28, 1.0, ['here']), threading.Event()\n"
        "outbox.on_commit.append(told.set)\n"
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
    with opened(path) as outbox:
        kept = numbers(outbox)
    assert kept == list(range(len(kept)))
    assert len(kept) > seen


def test_a_commit_is_on_the_disk_and_not_only_with_the_kernel(tmp_path: Path) -> None:
    """A power cut cannot be tested here; that SQLite was asked for it can."""
    with opened(tmp_path / "outbox") as outbox:
        asked = outbox._ask(
            lambda: [
                outbox._file._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            ]
        )
        assert asked.result(20) == ["wal", 2]


def test_close_commits_what_was_put(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as outbox:
        for k in range(500):
            outbox.put(event(k))
    with opened(tmp_path / "outbox") as outbox:
        assert numbers(outbox) == list(range(500))


class Clock:
    """Both of a machine's clocks, which go as the test says."""

    def __init__(self) -> None:
        self.wall, self.up = 1_000_000.0, 50.0

    def time(self) -> float:
        return self.wall

    def time_ns(self) -> int:
        return int(self.wall * 1e9)

    def monotonic(self) -> float:
        return self.up

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("daemon.records.outbox.time", clock)
    return clock


def test_what_outlived_its_time_is_shed_and_counted(
    tmp_path: Path, event: MakeEvent, clock: Clock
) -> None:
    with opened(tmp_path / "outbox", max_age_hours=2.0) as outbox:
        outbox.put(event(0))
        outbox.depth().result(20)
        clock.pass_(3600)
        outbox.put(event(1))
        assert numbers(outbox) == [0, 1]
        clock.pass_(3601)
        outbox.put(event(2))
        assert numbers(outbox) == [1, 2]
        assert outbox.losses.in_all == {"defect": 1}


def test_what_was_delivered_and_outlives_its_time_is_no_loss(
    tmp_path: Path, event: MakeEvent, clock: Clock
) -> None:
    with opened(tmp_path / "outbox", max_age_hours=2.0) as outbox:
        outbox.put(event(0))
        outbox.acknowledge("here", 1).result(20)
        clock.pass_(7300)
        outbox.put(event(1))
        assert numbers(outbox) == [1]
        assert not outbox.losses.in_all


@pytest.mark.parametrize("step", [-3600 * 24 * 365.0, 3600 * 24 * 365 * 30.0])
def test_a_step_of_the_wall_clock_makes_no_event_old(
    tmp_path: Path, event: MakeEvent, clock: Clock, step: float
) -> None:
    """A machine boots in the year 1970, and an hour later somebody tells it the time."""
    with opened(tmp_path / "outbox", max_age_hours=2.0) as outbox:
        outbox.put(event(0))
        outbox.depth().result(20)
        clock.wall += step
        clock.pass_(61)
        outbox.put(event(1))
        assert numbers(outbox) == [0, 1]
    clock.wall -= 2 * abs(step)  # and a boot later it has forgotten again
    with opened(tmp_path / "outbox", max_age_hours=2.0) as outbox:
        clock.pass_(61)
        outbox.put(event(2))
        assert numbers(outbox) == [0, 1, 2]
        clock.pass_(7201)
        outbox.put(event(3))
        assert numbers(outbox) == [3]


def test_a_database_of_someone_else_is_a_state_error(tmp_path: Path) -> None:
    """Else every event would be shed, one by one."""
    path = tmp_path / "outbox"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE events (id TEXT, what TEXT)")
    database.close()
    outbox = None
    try:
        with pytest.raises(StateError):
            outbox = Outbox(path, ROOM, 1.0, ["here"])
    finally:
        if outbox is not None:
            outbox.close()


@pytest.mark.parametrize("place", ["none/outbox", "file/outbox", "folder"])
def test_a_place_that_is_not_writable_is_a_state_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match="cannot be used"):
        Outbox(tmp_path / place, ROOM, 1.0, ["here"])


def test_what_is_put_after_the_close_is_counted_as_shed(tmp_path: Path, event: MakeEvent) -> None:
    with opened(tmp_path / "outbox") as outbox:
        outbox.close()
        outbox.put(event(0))
        assert outbox.losses.in_all.total() == 1


def test_a_question_that_was_given_up_does_not_end_the_outbox(
    tmp_path: Path, event: MakeEvent
) -> None:
    """A stop cancels the drainer while it waits for the disk; the stop itself asks on."""
    outbox = Outbox(tmp_path / "outbox", ROOM, 1.0, ["here"])
    busy, go_on = threading.Event(), threading.Event()

    def committed() -> None:
        busy.set()
        go_on.wait(20)

    outbox.on_commit.append(committed)
    outbox.put(event(0))
    assert busy.wait(20)
    assert outbox.after("here", None, 10).cancel()
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
    outbox = Outbox(tmp_path / "outbox", ROOM, 1.0, ["here"])
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
