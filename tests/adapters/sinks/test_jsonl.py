"""The file of JSON lines: whole events, in order, and never half of one."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.errors import SinkError
from adapters.ports import Event
from adapters.sinks.jsonl import JsonLinesSink, cloud_event

WALL_NS = 1_785_312_000_123_456_789


def event(number: int, filling: int = 0, wall_ns: int = WALL_NS) -> Event:
    return Event(
        id=f"line3/cam2/17/{number}",
        type="clearline.defect.v1",
        source="/site/line3/cam2",
        subject="cam2",
        key="line3/cam2",
        wall_ns=wall_ns,
        data={"sequence": number, "event_time_ms": wall_ns // 1_000_000, "filling": "x" * filling},
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def sequences(path: Path) -> list[int]:
    return [line["data"]["sequence"] for line in lines(path)]


@contextmanager
def opened(path: Path) -> Iterator[JsonLinesSink]:
    sink = JsonLinesSink(path)
    try:
        yield sink
    finally:
        asyncio.run(sink.close())


async def send(sink: JsonLinesSink, *events: Event) -> None:
    await sink.send(events)


def test_a_line_is_a_cloud_event_with_the_contracts_fields(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as sink:
        asyncio.run(send(sink, event(5)))
    (line,) = lines(tmp_path / "events")
    assert line == {
        "specversion": "1.0",
        "id": "line3/cam2/17/5",
        "type": "clearline.defect.v1",
        "source": "/site/line3/cam2",
        "subject": "cam2",
        "time": "2026-07-29T08:00:00.123Z",
        "partitionkey": "line3/cam2",
        "datacontenttype": "application/json",
        "data": {"sequence": 5, "event_time_ms": 1785312000123, "filling": ""},
    }


@given(st.integers(0, 4_000_000_000_000_000_000))
@example(1_785_312_000_122_999_999)
def test_the_time_is_the_same_millisecond_as_in_the_data(wall_ns: int) -> None:
    said = cloud_event(event(0, wall_ns=wall_ns))
    assert int(said["time"][-4:-1]) == wall_ns // 1_000_000 % 1000


def test_events_stand_in_their_order_over_calls_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for first in (0, 10):
        with opened(path) as sink:
            asyncio.run(send(sink, event(first), event(first + 1)))
            asyncio.run(send(sink, event(first + 2)))
    assert sequences(path) == [0, 1, 2, 10, 11, 12]


def test_sending_nothing_is_no_error(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as sink:
        asyncio.run(send(sink))
    assert lines(tmp_path / "events") == []


def test_a_full_disk_is_told_and_costs_no_event_and_no_line(small_disk: Path) -> None:
    path = small_disk / "events"
    with opened(path) as sink:
        asyncio.run(send(sink, event(0)))
        whole = path.read_bytes()
        with pytest.raises(SinkError, match="cannot be written: No space left"):
            asyncio.run(send(sink, *(event(k, filling=5000) for k in range(1, 30))))
        assert path.read_bytes() == whole
        asyncio.run(send(sink, event(1)))
    assert sequences(path) == [0, 1]


def test_a_disk_that_was_full_before_takes_events_again_once_there_is_room(
    small_disk: Path,
) -> None:
    path, ballast = small_disk / "events", small_disk / "ballast"
    ballast.touch()
    path.touch()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True, check=False
    )
    with opened(path) as sink:
        with pytest.raises(SinkError):
            asyncio.run(send(sink, event(0)))
        assert path.read_bytes() == b""
        ballast.unlink()
        asyncio.run(send(sink, event(0)))
    assert sequences(path) == [0]


def test_after_a_line_torn_by_a_power_cut_the_next_event_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"specversion":"1.0","id":"line3/ca')
    with opened(path) as sink:
        asyncio.run(send(sink, event(7)))
    assert json.loads(path.read_bytes().splitlines()[-1])["data"]["sequence"] == 7


@pytest.mark.parametrize("place", ["none/events", "file/events", "folder"])
def test_an_unwritable_path_is_a_sink_error_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with opened(tmp_path / place) as sink, pytest.raises(SinkError) as refused:
        asyncio.run(send(sink, event(0)))
    assert str(tmp_path / place) in str(refused.value)
    assert "expected a writable file" in str(refused.value)
