"""The example consumer and records that are no events: passed over, and the others stored."""

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psycopg
import pytest
from plant.events import defect
from plant.postgres import Postgres

from adapters.ports import Event

FILE = Path(__file__).parents[2] / "deploy/kafka/consume.py"
EVENT = defect(5)
HEADERS = (("ce_source", b"/plant/line"), ("ce_id", b"line/left/1/1"), ("ce_type", b"t"))


def of(data: dict[str, Any]) -> bytes:
    return json.dumps(EVENT.data | data).encode()


POISON = {
    "too large": of({"part_id": 2**63}),
    "too small": of({"epoch": -(2**63) - 1}),
    "an object for a text": of({"camera": {}}),
    "half a surrogate pair": of({"line": "\ud800"}),
    "a zero in a text": of({"line": "a\0b"}),
    "a text for a number": of({"score": "high"}),
    "a fraction for a whole number": of({"part_id": 1.5}),
    "a truth for a number": of({"count": True}),
    "a number for a truth": of({"late": 1}),
    "a list for a number": of({"score": [1]}),
    "a number beyond all": of({"score": 10**400}),
    "a number that is none": of({"score": float("nan")}),
    "one in the depth": of({"regions": [float("inf")]}),
    "deep": b'{"a":' * 50_000,
    "no JSON": b"no json",
    "no object": b"[1]",
    "no UTF-8": b'{"line":"\xff"}',
    "UTF-16": json.dumps(EVENT.data).encode("utf-16-le"),
    "nothing": None,
}
HEADERLESS = {
    "no headers": (),
    "an id that is null": (*HEADERS[:1], ("ce_id", None), *HEADERS[2:]),
    "a zero in an id": (*HEADERS[:1], ("ce_id", b"a\0"), *HEADERS[2:]),
    "an id too long for an index": (*HEADERS[:1], ("ce_id", b"x" * 5000), *HEADERS[2:]),
}


@pytest.fixture(scope="module")
def consume() -> ModuleType:
    spec = importlib.util.spec_from_file_location("consume", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as postgres:
        yield postgres


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "events.sqlite")
        return
    url = request.getfixturevalue("postgres").url
    yield url
    with psycopg.connect(url) as db:
        db.execute("DROP TABLE IF EXISTS events")


def record(value: bytes | None, headers: Any = HEADERS, offset: int = 7) -> SimpleNamespace:
    return SimpleNamespace(topic="t", partition=3, offset=offset, headers=headers, value=value)


def good(event: Event, offset: int) -> SimpleNamespace:
    names = ("ce_source", b"/plant/line"), ("ce_id", event.id.encode()), ("ce_type", b"t")
    return record(json.dumps(event.data).encode(), (*names, ("trace", None)), offset)


class OneBatch:
    """A consumer of one batch, after which it is asked to stop."""

    def __init__(self, records: list[SimpleNamespace], stop: asyncio.Event) -> None:
        self._records, self._stop = records, stop
        self.committed: dict[str, int] = {}

    async def getmany(self, **_: object) -> dict[str, list[SimpleNamespace]]:
        self._stop.set()
        return {"partition": self._records}

    async def commit(self, offsets: dict[str, int]) -> None:
        self.committed = offsets


@pytest.mark.parametrize("value", POISON.values(), ids=POISON)
def test_a_record_that_no_row_can_hold_is_named_on_stderr(
    consume: ModuleType, value: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert consume.row(record(value)) is None
    told = capsys.readouterr()
    assert told.err.startswith("passed over t[3] offset 7: ")
    assert len(told.err) < 300
    assert told.out == ""


@pytest.mark.parametrize("headers", HEADERLESS.values(), ids=HEADERLESS)
def test_a_record_without_a_name_is_passed_over(consume: ModuleType, headers: Any) -> None:
    assert consume.row(record(of({}), headers)) is None


def test_the_others_of_a_batch_are_stored_and_all_are_committed(
    consume: ModuleType, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the largest values that a column takes, and a whole number where a fraction may be."""
    events = [defect(number) for number in range(2)]
    edges = of({"part_id": 2**63 - 1, "epoch": -(2**63), "score": 2**70, "line": "ü" * 400})
    names = ("ce_source", ("ü" * 500).encode()), ("ce_id", ("é" * 500).encode()), ("ce_type", b"t")
    poison = [record(value) for value in POISON.values()]
    poison += [record(of({}), headers) for headers in HEADERLESS.values()]
    records = [good(events[0], 1), *poison, record(edges, names), good(events[1], 99)]
    database, insert = consume.open_database(url)
    try:
        database.execute(consume.TABLE)
        database.commit()

        async def consumed() -> dict[str, int]:
            stop = asyncio.Event()
            consumer = OneBatch(records, stop)
            await consume.consume(consumer, database, insert, stop)
            return consumer.committed

        assert asyncio.run(consumed()) == {"partition": 100}
        found = database.execute("SELECT id FROM events ORDER BY part_id, id").fetchall()
    finally:
        database.close()
    assert [id_ for (id_,) in found] == [events[0].id, events[1].id, "é" * 500]
    told = capsys.readouterr()
    assert f"3 stored, 0 duplicates, {len(poison)} passed over" in told.out
    assert told.err.count("passed over t[3] offset 7: ") == len(poison)
