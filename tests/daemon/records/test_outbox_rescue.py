"""A torn outbox: what was committed is there, or its loss is announced; and the line starts."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.ports import Event
from daemon.errors import StateError
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import Damage, Shed
from daemon.records.outbox_schema import VERSION, encode

MakeEvent = Callable[..., Event]
NAME = "outbox.sqlite"


def opened(folder: Path) -> Outbox:
    return Outbox(folder / NAME, 1 << 26, 1.0, ["far"])


def numbers(outbox: Outbox) -> list[int]:
    stored = outbox.after("far", None, 100_000).result(20)
    return [one.event.data["number"] for one in stored if "number" in one.event.data]


def told(outbox: Outbox) -> list[Shed | Damage]:
    """What it announces from now on, or had to announce since it was opened."""
    heard: list[Shed | Damage] = []

    def announce(loss: Shed | Damage) -> Event:
        if loss not in heard:
            heard.append(loss)
        return Event("said", "clearline.line.v1", "/s/l", "l", "l", 1, {"kind": "outbox_damaged"})

    outbox.losses.announce = announce
    return heard


def after_a_crash(folder: Path, event: MakeEvent, count: int, acknowledged: int = 0) -> Path:
    """A copy of the state as it stands on the disk while the outbox is open: a power cut."""
    outbox = opened(folder)
    for number in range(count):
        outbox.put(event(number, filling=3000))
        if number % 7 == 0:
            outbox.depth().result(20)
    if acknowledged:
        outbox.acknowledge("far", acknowledged).result(20)
    outbox.depth().result(20)
    crashed = folder / "crashed"
    crashed.mkdir()
    for file in folder.glob(f"{NAME}*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, crashed / file.name)
    outbox.close()
    return crashed


def test_after_a_power_cut_everything_is_there_and_nothing_is_announced(
    tmp_path: Path, event: MakeEvent
) -> None:
    crashed = after_a_crash(tmp_path, event, 100, acknowledged=40)
    outbox = opened(crashed)
    heard = told(outbox)
    assert numbers(outbox) == list(range(40, 100))
    outbox.close()
    assert heard == []


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_file_that_is_no_database_is_set_aside_by_name_and_a_new_one_begun(
    tmp_path: Path, event: MakeEvent, content: bytes
) -> None:
    (tmp_path / NAME).write_bytes(content)
    outbox = opened(tmp_path)
    heard = told(outbox)
    outbox.put(event(1))
    assert numbers(outbox) == [1]
    outbox.close()
    (damage,) = heard
    assert isinstance(damage, Damage)
    assert damage.set_aside is not None
    assert (tmp_path / damage.set_aside).read_bytes() == content
    assert damage.lost_at_most is None, "nobody can say"


def test_a_log_that_was_cut_off_reads_like_a_shorter_one_and_is_found_out_all_the_same(
    tmp_path: Path, event: MakeEvent
) -> None:
    crashed = after_a_crash(tmp_path, event, 60)
    wal = crashed / f"{NAME}-wal"
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size // 2)
    outbox = opened(crashed)
    heard = told(outbox)
    there = numbers(outbox)
    assert there == list(range(len(there)))
    assert len(there) < 60
    outbox.put(event(60))
    assert numbers(outbox)[-1] == 60
    assert outbox.after("far", None, 1000).result(20)[-1].seq > 60, "no number is given twice"
    outbox.close()
    (damage,) = heard
    assert isinstance(damage, Damage)
    assert damage.lost_at_most == 60 - len(there)
    assert damage.set_aside is None


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    what=st.sampled_from(["cut", "zeros", "noise", "flip"]),
    which=st.sampled_from(["", "-wal"]),
    acknowledged=st.sampled_from([0, 30]),
    settled=st.booleans(),
)
def test_whatever_was_torn_what_is_missing_is_announced_and_the_line_starts(
    tmp_path_factory: pytest.TempPathFactory, event: MakeEvent,
    seed: int, what: str, which: str, acknowledged: int, settled: bool,
) -> None:  # fmt: skip
    """`settled`: everything is in the main file, as after a stop in good order."""
    folder = tmp_path_factory.mktemp("torn")
    crashed = after_a_crash(folder, event, 80, acknowledged)
    if settled:
        with sqlite3.connect(crashed / NAME) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
    path = crashed / f"{NAME}{which}"
    if path.exists():
        _tear(path, what, random.Random(seed))
    outbox = opened(crashed)
    heard = told(outbox)
    there = numbers(outbox)
    assert there == sorted(set(there))
    missing = set(range(acknowledged, 80)) - set(there)
    outbox.put(event(1000))
    assert numbers(outbox)[-1] == 1000
    outbox.close()
    lost = [damage.lost_at_most for damage in heard if isinstance(damage, Damage)]
    if missing:
        assert lost, f"{len(missing)} events are gone and nobody says so"
        assert None in lost or sum(lost) >= len(missing)  # type: ignore[arg-type]
    again = opened(crashed)
    assert numbers(again) == [*there, 1000], "the second start finds what the first one left"
    again.close()


def _tear(path: Path, what: str, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if not content:
        return
    place = dice.randrange(len(content))
    end = min(len(content), place + dice.choice([1, 512, 4096, 40_000]))
    match what:
        case "cut":
            del content[place:]
        case "zeros":
            content[place:end] = bytes(end - place)
        case "noise":
            content[place:end] = dice.randbytes(end - place)
        case "flip":
            content[place] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def test_damage_while_the_line_runs_costs_no_restart(tmp_path: Path, event: MakeEvent) -> None:
    """A disk that goes bad: pages in the middle of the file are zeros from one moment on."""
    outbox = opened(tmp_path)
    heard = told(outbox)
    for number in range(300):
        outbox.put(event(number, filling=3000))
    outbox.depth().result(20)
    outbox._ask(lambda: outbox._file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    outbox._ask(lambda: outbox._file._db.execute("PRAGMA cache_size = 0").fetchall()).result(20)
    outbox._ask(lambda: outbox._file._db.execute("PRAGMA shrink_memory").fetchall()).result(20)
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(100 * 4096)
        file.write(bytes(120 * 4096))
    for _ in range(3):
        try:
            there = numbers(outbox)
            break
        except sqlite3.DatabaseError:
            continue
    outbox.put(event(1000))
    assert numbers(outbox)[-1] == 1000
    outbox.close()
    lost = [d.lost_at_most for d in heard if isinstance(d, Damage)]
    assert sum(n or 0 for n in lost) >= 300 - len(there) > 0
    assert list(tmp_path.glob(f"{NAME}.damaged-*"))


def test_a_file_of_version_1_is_taken_over_with_its_events(
    tmp_path: Path, event: MakeEvent
) -> None:
    path = tmp_path / NAME
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA application_id = 1129075249")
        database.execute(
            "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
            " body BLOB NOT NULL)"
        )
        for number in range(5):
            row = (1.7e9 + number, encode(event(number)))
            database.execute("INSERT INTO events (at, body) VALUES (?, ?)", row)
        database.execute("DELETE FROM events WHERE seq > 3")
    database.close()
    outbox = Outbox(path, 1 << 26, 1e6, ["far"])
    heard = told(outbox)
    assert numbers(outbox) == [0, 1, 2]
    outbox.put(event(7))
    stored = outbox.after("far", None, 10).result(20)
    assert [one.seq for one in stored] == [1, 2, 3, 6], "numbers go on behind the last one"
    outbox.close()
    assert heard == []


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(StateError, match="newer version"):
        opened(tmp_path)
    assert not list(tmp_path.glob("*damaged*"))


def test_a_missing_file_with_a_mark_is_a_loss_that_is_said(
    tmp_path: Path, event: MakeEvent
) -> None:
    outbox = opened(tmp_path)
    for number in range(9):
        outbox.put(event(number))
    outbox.close()
    (tmp_path / NAME).unlink()
    outbox = opened(tmp_path)
    heard = told(outbox)
    outbox.put(event(9))
    assert numbers(outbox) == [9]
    outbox.close()
    (damage,) = heard
    assert isinstance(damage, Damage)
    assert damage.lost_at_most == 9
