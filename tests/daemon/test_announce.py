"""What a killed daemon left open is announced before it is closed, or stays open."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.ports import Event, FrameId, Outcome, Reason
from daemon.records.ledger import Ledger
from daemon.records.outbox import Outbox
from daemon.service import Service


def event_of(kind: str, data: Mapping[str, Any]) -> Event:
    return Event("line/1/x", "clearline.line.v1", "/site/line", "line", "line", 0, {**data})


def with_a_gap(folder: Path) -> Ledger:
    ledger = Ledger(folder / "ledger")
    for sequence in range(8):
        ledger.account("left").receive(FrameId("line", "left", 1, sequence))
    return ledger


def service(ledger: Ledger, outbox: object) -> Service:
    publish = SimpleNamespace(line_event=event_of)
    parts = SimpleNamespace(ledger=ledger, outbox=outbox, publish=publish)
    return Service(parts)  # type: ignore[arg-type]


async def test_a_gap_is_closed_once_its_event_is_durable(tmp_path: Path) -> None:
    ledger = with_a_gap(tmp_path)
    outbox = Outbox(tmp_path / "outbox", 1 << 20, 1.0, ["far"])
    try:
        await service(ledger, outbox)._announce_gaps()
        assert ledger.account("left").counts().uninspected == {Reason.DAEMON_RESTART: 8}
        (stored,) = outbox.after("far", None, 9).result(5)
        assert stored.event.data["count"] == 8
    finally:
        outbox.close()


async def test_where_the_outbox_has_no_room_the_gap_stays_open_for_the_next_start(
    tmp_path: Path,
) -> None:
    class Full:
        def reported(self, camera: str) -> "Future[None]":
            future: Future[None] = Future()
            future.set_result(None)
            return future

        def store(self, event: Event) -> "Future[bool]":
            future: Future[bool] = Future()
            future.set_result(False)
            return future

    ledger = with_a_gap(tmp_path)
    await service(ledger, Full())._announce_gaps()
    counts = ledger.account("left").counts()
    assert counts.in_flight == 8
    assert not counts.uninspected


def decided(ledger: Ledger, outcome: Outcome, frames: range) -> None:
    account = ledger.account("left")
    for sequence in frames:
        frame = FrameId("line", "left", 1, sequence)
        account.receive(frame)
        reason = Reason.LATE if outcome is Outcome.UNINSPECTED else None
        account.decide(frame, outcome, reason)


def defect(sequence: int, *, late: bool = False, strips: int = 1) -> Event:
    data = {
        "verdict": "defect", "late": late, "strips": strips, "camera": "left", "epoch": 1,
        "last_sequence": sequence,
    }  # fmt: skip
    return Event(f"line/left/1/{sequence}", "clearline.defect.v1", "/s/l", "left", "l", 0, data)


async def test_verdicts_whose_events_a_kill_kept_from_the_outbox_are_announced(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    outbox = Outbox(tmp_path / "outbox", 1 << 20, 1.0, ["far"])
    try:
        await service(ledger, outbox)._announce_gaps()
        decided(ledger, Outcome.DEFECT, range(4))
        await service(ledger, outbox)._announce_gaps()  # an older version's: nothing is known
        assert outbox.depth().result(5) == 0
        decided(ledger, Outcome.DEFECT, range(4, 9))
        decided(ledger, Outcome.UNINSPECTED, range(9, 12))
        decided(ledger, Outcome.OK, range(12, 20))
        outbox.put(defect(5, strips=2))
        outbox.put(defect(6, late=True))
        await service(ledger, outbox)._announce_gaps()
        *_, stored = outbox.after("far", None, 9).result(5)
        assert stored.event.data == {
            "camera": "left", "after_epoch": 1, "after_sequence": 5,
            "last_epoch": 1, "last_sequence": 19, "defects": 3, "uninspected": 3,
        }  # fmt: skip
        depth = outbox.depth().result(5)
        await service(ledger, outbox)._announce_gaps()
        assert outbox.depth().result(5) == depth, "said once"
    finally:
        outbox.close()


@pytest.mark.parametrize("room", [True, False])
def test_an_outbox_says_whether_an_event_is_durable(tmp_path: Path, room: bool) -> None:
    outbox = Outbox(tmp_path / "outbox", 1 << 20, 1.0, ["far"])
    try:
        filling = "x" * (100 if room else 2 << 20)
        assert outbox.store(event_of("x", {"filling": filling})).result(5) is room
        assert outbox.depth().result(5) == int(room)
    finally:
        outbox.close()
