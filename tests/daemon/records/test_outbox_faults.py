"""What a hostile reader found, and stays mended: an outbox that may not stick, forget or end."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.ports import Event, Refusal
from daemon.errors import StateError
from daemon.records import outbox_rescue
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import Damage, OutboxFile, Shed
from daemon.records.outbox_report import report, requeue
from daemon.records.reported import Reported

MakeEvent = Callable[..., Event]
NAME = "outbox.sqlite"
SMALL = 1 << 20


def opened(folder: Path, *sinks: str, max_bytes: int = 1 << 26) -> Outbox:
    return Outbox(folder / NAME, max_bytes, 1.0, sinks or ("far",))


def numbers(outbox: Outbox, sink: str = "far") -> list[int]:
    stored = outbox.after(sink, None, 100_000).result(20)
    return [one.event.data["number"] for one in stored if "number" in one.event.data]


def losses(outbox: Outbox) -> list[Shed | Damage]:
    return outbox._ask(lambda: outbox._opened().losses()).result(20)


def fill(outbox: Outbox, event: MakeEvent, first: int = 0) -> int:
    """With defects, until no more fits; the number of the first that did not."""
    number = first
    while outbox.store(event(number, filling=4000)).result(20):
        number += 1
    return number


def test_refusals_in_a_full_outbox_do_not_stop_it(tmp_path: Path, event: MakeEvent) -> None:
    """Away until it is full, then a broker comes back that refuses everything."""
    outbox = opened(tmp_path, "far", "near", max_bytes=SMALL)
    last = fill(outbox, event)
    stored = outbox.after("far", None, 1000).result(20)
    refused = [Refusal(one.event, "not allowed") for one in stored]
    outbox.acknowledge("far", stored[-1].seq, refused).result(5)
    outbox.acknowledge("near", stored[-1].seq).result(5)
    assert outbox.store(event(last + 1)).result(5), "it goes on"
    letters = len(report(tmp_path)["dead_letters"])
    said = [loss for loss in losses(outbox) if isinstance(loss, Shed)]
    given_up = sum(loss.events.total() for loss in said)
    assert letters + given_up == len(stored) + 1  # and the one that did not fit
    outbox.close()


@pytest.mark.parametrize("how", ["close", "kill"])
def test_what_was_shed_is_still_to_be_said_after_a_restart(
    tmp_path: Path, event: MakeEvent, how: str
) -> None:
    outbox = opened(tmp_path, max_bytes=SMALL)
    kept = fill(outbox, event)
    for number in range(kept + 1, kept + 50):
        outbox.put(event(number, filling=4000))
    outbox.depth().result(20)
    if how == "close":
        outbox.close()
        again = opened(tmp_path, max_bytes=SMALL)
    else:  # what a kill leaves is what is on the disk now
        (tmp_path / "crashed").mkdir()
        for file in tmp_path.glob(f"{NAME}*"):
            (tmp_path / "crashed" / file.name).write_bytes(file.read_bytes())
        outbox.close()
        again = opened(tmp_path / "crashed", max_bytes=SMALL)
    (said,) = losses(again)
    assert isinstance(said, Shed)
    assert said.events == {"defect": 50}
    again.losses.announce = lambda loss: Event(
        "said", "clearline.line.v1", "/s/l", "l", "l", 1,
        {"kind": "shed", "events": dict(loss.events)} if isinstance(loss, Shed) else {},
    )  # fmt: skip
    last = again.after("far", None, 1000).result(20)[-1].seq
    again.acknowledge("far", last).result(20)
    (stored,) = again.after("far", None, 10).result(20)
    assert stored.event.data == {"kind": "shed", "events": {"defect": 50}}
    assert losses(again) == []
    again.close()


STEPS = ["OutboxFile", "_carry_over", "_take_the_place", "rename 1", "rename 2", "rename 3"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_the_middle_of_a_rescue_loses_nothing_more_and_it_is_said_once(
    tmp_path: Path, event: MakeEvent, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    outbox = opened(tmp_path)
    for number in range(300):
        outbox.put(event(number, filling=3000))
    outbox.depth().result(20)
    outbox.acknowledge("far", 10, [Refusal(event(5), "no")]).result(20)
    outbox.settle(Reported("left", 7, 8, 1, 9)).result(20)
    outbox.close()
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(150 * 4096)
        file.write(os.urandom(8 * 4096))

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    mark = outbox_rescue.Mark(tmp_path / f"{NAME}.mark")
    with monkeypatch.context() as patched:
        if step.startswith("rename"):
            left, rename = [int(step[-1])], Path.rename

            def counted(self: Path, target: Path) -> Path:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return rename(self, target)

            patched.setattr(Path, "rename", counted)
        else:
            patched.setattr(outbox_rescue, step, killed)
        # Else what a kill leaves lying would be tidied up.
        patched.setattr(outbox_rescue, "_remove", lambda _: None)
        with pytest.raises(Killed):
            outbox_rescue.replaced(tmp_path / NAME, 1 << 26, mark, "torn")
    again = opened(tmp_path)
    there = numbers(again)
    (said,) = losses(again)
    assert isinstance(said, Damage)
    assert said.lost_at_most is not None
    assert len(there) == 290 - said.lost_at_most
    assert 260 < len(there) < 290
    assert said.set_aside is not None
    assert (tmp_path / said.set_aside).exists()
    assert len(report(tmp_path)["dead_letters"]) == 1
    assert again.reported("left").result(5) == Reported("left", 7, 8, 1, 9)
    again.close()
    assert not list(tmp_path.glob("*.new*")) + list(tmp_path.glob("*.rescued*"))


def test_whatever_bit_of_the_header_flips_the_line_starts(tmp_path: Path, event: MakeEvent) -> None:
    """Some of them look like another program's file, a newer version's, or a read-only one."""
    outbox = opened(tmp_path)
    for number in range(20):
        outbox.put(event(number))
    outbox.close()
    whole = (tmp_path / NAME).read_bytes()
    for place in range(100):
        torn = bytearray(whole)
        torn[place] ^= 1 << (place % 8)
        (tmp_path / NAME).write_bytes(torn)
        again = opened(tmp_path)
        lost = [d.lost_at_most for d in losses(again) if isinstance(d, Damage)]
        there = numbers(again)
        assert there == list(range(20)) or None in lost or sum(lost) >= 20 - len(there)  # type: ignore[arg-type]
        again.close()
        for file in tmp_path.glob(f"{NAME}*"):
            if not file.name.endswith(".mark"):
                file.unlink()


def test_a_cursor_beyond_the_end_costs_no_event(tmp_path: Path, event: MakeEvent) -> None:
    outbox = opened(tmp_path)
    for number in range(5):
        outbox.put(event(number))
    outbox.close()
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("UPDATE cursors SET seq = 1 << 30")
    database.close()
    again = opened(tmp_path)
    assert numbers(again) == [0, 1, 2, 3, 4]
    assert losses(again)
    again.close()


@pytest.mark.parametrize("column", ["kind = 'camera'", "sink = 'near'", "body = 'text'"])
def test_a_row_that_says_something_else_is_no_event(
    tmp_path: Path, event: MakeEvent, column: str
) -> None:
    outbox = opened(tmp_path, "far", "near")
    for number in range(3):
        outbox.put(event(number))
    outbox.close()
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute(f"UPDATE events SET {column} WHERE seq = 2")
    database.close()
    again = opened(tmp_path, "far", "near")
    assert 1 not in numbers(again, "near")
    assert losses(again), "it is said"
    again.close()


def test_a_limit_that_was_lowered_holds(tmp_path: Path, event: MakeEvent) -> None:
    outbox = opened(tmp_path)
    for number in range(1000):
        outbox.put(event(number, filling=4000))
    outbox.close()
    small = opened(tmp_path, max_bytes=SMALL)
    assert not small.store(event(1000, filling=4000)).result(20)
    assert len(numbers(small)) == 1000, "what was committed stays"
    small.acknowledge("far", 1000).result(20)
    before = fill(small, event, 2000)
    assert (before - 2000) * 4000 < SMALL
    small.close()


def test_a_letter_of_a_sink_that_is_no_more_is_kept(tmp_path: Path, event: MakeEvent) -> None:
    outbox = opened(tmp_path, "far", "near")
    outbox.put(event(0))
    outbox.acknowledge("far", 1, [Refusal(event(0), "no")]).result(20)
    outbox.close()
    outbox = opened(tmp_path, "near")
    assert requeue(tmp_path, None) == 0
    with pytest.raises(StateError, match="of a sink that the line has"):
        requeue(tmp_path, 1)
    assert len(report(tmp_path)["dead_letters"]) == 1
    outbox.close()


def test_what_is_not_durable_when_it_is_asked_for_is_let_go(
    tmp_path: Path, event: MakeEvent
) -> None:
    """Else whoever says it again later says it twice."""
    outbox = opened(tmp_path)
    outbox.put(event(0))
    outbox.depth().result(20)
    real = OutboxFile.insert

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("locked")

    OutboxFile.insert = full  # type: ignore[method-assign]
    try:
        assert outbox.store(event(1)).result(20) is False
    finally:
        OutboxFile.insert = real  # type: ignore[method-assign]
    outbox.close()
    again = opened(tmp_path)
    assert numbers(again) == [0]
    again.close()


def test_an_outbox_that_ends_unforeseen_says_so_and_keeps_nobody_waiting(
    tmp_path: Path, event: MakeEvent
) -> None:
    outbox = opened(tmp_path)

    def broken() -> None:
        raise RuntimeError("nobody foresaw this")

    outbox.on_commit.append(broken)
    outbox.put(event(0))
    assert isinstance(outbox.died.exception(20), RuntimeError)
    assert outbox.store(event(1)).result(5) is False
    outbox.depth().result(5)
    with pytest.raises(sqlite3.Error):
        outbox.acknowledge("far", 1).result(5)
    outbox.close()


def test_a_number_that_no_database_holds_costs_its_own_event_only(
    tmp_path: Path, event: MakeEvent
) -> None:
    outbox = opened(tmp_path)
    outbox.settle(Reported("left", 0, 0, 0, 0)).result(20)
    data = {
        "verdict": "defect", "late": False, "strips": 1, "camera": "left", "epoch": 1,
        "last_sequence": 1 << 63,
    }  # fmt: skip
    strange = Event("x", "clearline.defect.v1", "/s/l", "left", "l", 0, data)
    assert outbox.store(strange).result(20) is False
    assert outbox.store(event(1)).result(20) is True
    assert outbox.losses.in_all == {"defect": 1}
    outbox.close()


def test_memory_is_flat_while_a_hundred_thousand_events_wait(
    tmp_path: Path, event: MakeEvent
) -> None:
    from plant.daemon_process import memory

    outbox = opened(tmp_path, max_bytes=1 << 30)
    outbox.put(event(0, filling=2000))
    outbox.depth().result(20)
    before = memory("self", "VmRSS")
    for number in range(100_000):
        outbox.put(event(number, filling=2000))
        if number % 1000 == 999:
            outbox.after("far", None, 1).result(60)
    grown = memory("self", "VmRSS") - before
    assert outbox.depth().result(60) == 100_001
    outbox.close()
    assert grown < 32 << 20, f"{grown >> 20} MiB for 200 MiB of events"
