"""A full outbox: what goes first is what the operator said, and it is counted and announced."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.ports import Event
from daemon.records.outbox import Outbox
from daemon.records.outbox_file import Damage, Shed
from daemon.records.outbox_schema import KINDS, Kind, kind_of

ROOM = 1 << 20
SIZE = 4000  # of an event: a page and a half, so that the arithmetic is not too easy
_TYPES = {"defect": "clearline.defect.v1", "camera": "clearline.camera.v1"}


def event(kind: Kind, number: int) -> Event:
    data = {"kind": kind, "number": number, "filling": "x" * SIZE}
    return Event(
        f"{kind}/{number}", _TYPES.get(kind, "clearline.line.v1"), "/s/l", "l", "l", 1, data
    )  # type: ignore[arg-type]


def test_the_kinds_of_events_are_told_apart() -> None:
    assert [kind_of(event(kind, 0)) for kind in KINDS] == list(KINDS)


@pytest.mark.parametrize("kind", ["unrecorded", "unreported", "shed", "outbox_replaced"])
def test_what_is_said_of_losses_is_worth_as_much_as_a_defect(kind: Kind) -> None:
    """Else a full outbox would push out what tells of it."""
    assert kind_of(event(kind, 0)) == "defect"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def make(*order: Kind) -> Outbox:
        outbox = Outbox(tmp_path / "outbox.sqlite", ROOM, 1.0, ["far"], order or KINDS)
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.close()


def put(outbox: Outbox, kind: Kind, count: int, first: int = 0) -> None:
    """A commit each, so that only what has no room is shed."""
    for number in range(first, first + count):
        outbox.store(event(kind, number)).result(20)


def inside(outbox: Outbox) -> Counter[str]:
    stored = outbox.after("far", None, 10_000).result(20)
    return Counter(kind_of(one.event) for one in stored)


def test_of_events_that_are_worth_the_same_the_newest_finds_no_room(
    small: Callable[..., Outbox],
) -> None:
    outbox = small()
    put(outbox, "defect", 300)
    kept = inside(outbox)["defect"]
    assert ROOM // 2 < kept * SIZE < ROOM
    stored = outbox.after("far", None, 10_000).result(20)
    assert [one.event.data["number"] for one in stored] == list(range(kept))
    assert outbox.losses.in_all == {"defect": 300 - kept}
    assert not outbox.store(event("defect", 300)).result(20)
    outbox.acknowledge("far", stored[-1].seq).result(20)
    assert outbox.store(event("defect", 301)).result(20), "there is room again"


def test_defects_push_out_what_is_worth_less_in_the_configured_order(
    small: Callable[..., Outbox],
) -> None:
    outbox = small()
    for kind in ("camera", "summary", "line"):
        put(outbox, kind, 30)
    seen = []
    for number in range(400):
        if not outbox.store(event("defect", number)).result(20):
            break
        seen.append(inside(outbox))
    first_without = {k: next(i for i, c in enumerate(seen) if c[k] < 30) for k in KINDS[:3]}
    gone = {k: next(i for i, c in enumerate(seen) if c[k] == 0) for k in KINDS[:3]}
    assert first_without["summary"] <= gone["summary"] <= first_without["camera"]
    assert first_without["camera"] <= gone["camera"] <= first_without["line"]
    assert set(seen[-1]) == {"defect"}
    assert outbox.losses.in_all - Counter({"defect": 1}) == {
        "summary": 30,
        "camera": 30,
        "line": 30,
    }


def test_the_order_is_the_operators(small: Callable[..., Outbox]) -> None:
    outbox = small("line", "summary", "camera", "defect")
    put(outbox, "line", 30)
    put(outbox, "summary", 300)
    assert inside(outbox)["line"] == 0
    assert outbox.losses.in_all["summary"] > 0


def test_a_summary_pushes_nothing_out(small: Callable[..., Outbox]) -> None:
    outbox = small()
    put(outbox, "camera", 300)
    full = inside(outbox)
    put(outbox, "summary", 20)
    assert inside(outbox) == full


def test_what_everybody_has_goes_before_anything_else(small: Callable[..., Outbox]) -> None:
    outbox = small()
    put(outbox, "defect", 50)
    outbox.acknowledge("far", 50).result(20)
    put(outbox, "camera", 100)
    assert inside(outbox) == {"camera": 100}
    assert not outbox.losses.in_all


def test_dead_letters_give_room_as_their_kind_does(
    small: Callable[..., Outbox], tmp_path: Path
) -> None:
    from adapters.ports import Refusal
    from daemon.records.outbox_report import report

    outbox = small()
    put(outbox, "camera", 40)
    stored = outbox.after("far", None, 100).result(20)
    outbox.acknowledge("far", 40, [Refusal(one.event, "too large") for one in stored]).result(20)
    assert len(report(tmp_path)["dead_letters"]) == 40
    put(outbox, "defect", 300)
    assert report(tmp_path)["dead_letters"] == []
    assert inside(outbox)["defect"] > 80
    assert outbox.losses.in_all["camera"] == 40


def test_what_was_shed_is_said_in_an_event_once_there_is_room(small: Callable[..., Outbox]) -> None:
    outbox = small()
    told: list[Shed | Damage] = []

    def announce(loss: Shed | Damage) -> Event:
        told.append(loss)
        return event("line", 9000 + len(told))

    outbox.losses.announce = announce
    put(outbox, "defect", 300)
    shed = outbox.losses.in_all["defect"]
    assert inside(outbox)["line"] == 0, "it pushes no defect out"
    stored = outbox.after("far", None, 10_000).result(20)
    outbox.acknowledge("far", stored[-1].seq).result(20)
    said = outbox.after("far", None, 10).result(20)
    assert [one.event.data["number"] for one in said] == [9000 + len(told)]
    last = told[-1]
    assert isinstance(last, Shed)
    assert last.events == {"defect": shed}
    assert outbox.losses.in_all == {"defect": shed}, "the announcement itself is no loss"
    put(outbox, "defect", 1)
    assert inside(outbox) == {"line": 1, "defect": 1}, "said once"


def test_the_file_stays_within_its_limit(small: Callable[..., Outbox], tmp_path: Path) -> None:
    outbox = small()
    for number in range(200):
        for kind in KINDS:
            outbox.put(event(kind, number))
    outbox.depth().result(20)
    assert (tmp_path / "outbox.sqlite").stat().st_size <= ROOM
