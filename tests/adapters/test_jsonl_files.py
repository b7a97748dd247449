"""Those who look on: every event once and in order, whatever becomes of the files meanwhile."""

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.jsonl_files import (
    EventFileError,
    EventLineError,
    JsonLinesReader,
    Line,
    numbered,
)
from adapters.ports import Event
from adapters.sinks.jsonl import JsonLinesSink

FILE_BYTES = 1000  # three or four events


def event(number: int, filling: int = 0) -> Event:
    data = {"number": number, "filling": "x" * filling}
    return Event(str(number), "clearline.line.v1", "/site/line", "line", "line", 0, data)


def numbers(lines: list[Line]) -> list[int]:
    return [line["data"]["number"] for line in lines if isinstance(line, dict)]


@contextmanager
def opened(path: Path, keep: int = 1000) -> Iterator[tuple[JsonLinesSink, JsonLinesReader]]:
    sink = JsonLinesSink(path, FILE_BYTES, keep)
    with closing(JsonLinesReader(path)) as reader:
        try:
            yield sink, reader
        finally:
            asyncio.run(sink.close())


def send(sink: JsonLinesSink, *events: Event) -> None:
    asyncio.run(sink.send(events))  # type: ignore[arg-type]


def test_what_stands_is_read_from_the_oldest_file_to_the_newest(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as (sink, reader):
        send(sink, *(event(number) for number in range(40)))
        assert numbered(tmp_path / "events", 9).exists()
        assert numbers(reader.read()) == list(range(40))


def test_an_event_is_read_as_it_was_sent(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as (sink, reader):
        send(sink, event(3, filling=2))
        (line,) = reader.read()
    assert isinstance(line, dict)
    assert line["type"] == "clearline.line.v1"
    assert line["data"] == {"number": 3, "filling": "xx"}


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as (sink, reader):
        assert reader.read() == []
        send(sink, event(0))
        assert numbers(reader.read()) == [0]


@settings(max_examples=50, deadline=None)  # each waits for the disk
@given(st.lists(st.one_of(st.just("read"), st.integers(1, 12)), max_size=20))
def test_each_event_is_read_once_however_looks_and_rotations_follow_each_other(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    fresh = itertools.count()
    read: list[int] = []
    with opened(tmp_path_factory.mktemp("files") / "events") as (sink, reader):
        for step in steps:
            if step == "read":
                read += numbers(reader.read())
            else:
                send(sink, *(event(number) for number in itertools.islice(fresh, step)))
        read += numbers(reader.read())
    assert read == list(range(next(fresh)))


@pytest.mark.parametrize("before", [True, False])
def test_a_look_between_two_steps_of_a_rotation_misses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    replace = os.replace
    read: list[int] = []
    with opened(tmp_path / "events") as (sink, follower):

        def looked_on(old: Path, new: Path) -> None:
            if not before:
                replace(old, new)
            read.extend(numbers(follower.read()))
            with closing(JsonLinesReader(tmp_path / "events")) as newcomer:
                whole = numbers(newcomer.read())
            assert whole == list(range(len(whole)))
            assert len(whole) == len(read)
            if before:
                replace(old, new)

        monkeypatch.setattr(os, "replace", looked_on)
        send(sink, *(event(number) for number in range(40)))
        read += numbers(follower.read())
    assert read == list(range(40))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=20, max_size=20))
def test_a_rotation_between_two_steps_of_a_look_misses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int]
) -> None:
    stat, looker = Path.stat, threading.get_ident()
    fresh, ahead = itertools.count(), iter(batches)
    read: list[int] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        opened(tmp_path_factory.mktemp("files") / "events") as (sink, reader),
    ):

        def overtaken(path: Path, **how: Any) -> os.stat_result:
            if threading.get_ident() == looker:
                send(sink, *(event(number) for number in itertools.islice(fresh, next(ahead, 0))))
            return stat(path, **how)

        send(sink, event(next(fresh)))
        read += numbers(reader.read())
        patch.setattr(Path, "stat", overtaken)
        for _ in range(len(batches) + 1):
            read += numbers(reader.read())
    assert read == list(range(1 + sum(batches)))


def test_a_look_at_any_moment_of_a_busy_sink_misses_and_doubles_nothing(tmp_path: Path) -> None:
    read: list[int] = []
    with opened(tmp_path / "events") as (sink, reader):

        def write() -> None:
            for first in range(0, 240, 6):
                send(sink, *(event(number) for number in range(first, first + 6)))

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive():
            read += numbers(reader.read())
        writer.join()
        read += numbers(reader.read())
    assert read == list(range(240))


def test_a_file_given_up_before_its_turn_is_passed_over(tmp_path: Path) -> None:
    with opened(tmp_path / "events", keep=2) as (sink, reader):
        send(sink, event(0))
        assert numbers(reader.read()) == [0]
        send(sink, *(event(number) for number in range(1, 100)))
        read = numbers(reader.read())
    steps = [after - before for before, after in itertools.pairwise(read)]
    assert (read[0], read[-1]) == (1, 99)
    assert steps.count(1) == len(steps) - 1
    assert max(steps) > 50


def test_what_is_not_taken_of_the_lines_comes_next_time(tmp_path: Path) -> None:
    with opened(tmp_path / "events") as (sink, reader):
        send(sink, *(event(number) for number in range(10)))
        first = list(itertools.islice(reader.lines(), 5))
        assert numbers(first) == [0, 1, 2, 3, 4]
        assert numbers(reader.read()) == [5, 6, 7, 8, 9]


def test_a_line_without_its_end_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with closing(JsonLinesReader(path)) as reader:
        path.write_bytes(b'{"data":{"number":1}}\n{"data":{"num')
        assert numbers(reader.read()) == [1]
        with path.open("ab") as file:
            file.write(b'ber":2}}')
        assert reader.read() == []
        with path.open("ab") as file:
            file.write(b"\n")
        assert numbers(reader.read()) == [2]


def test_a_torn_line_is_told_once_its_end_will_never_come(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"data":{"number":1}}\n{"data":{"num')
    with closing(JsonLinesReader(path)) as reader:
        assert numbers(reader.read()) == [1]
        path.rename(numbered(path, 1))
        path.write_bytes(b'{"data":{"number":3}}\n')
        torn, after = reader.read()
    assert isinstance(torn, EventLineError)
    assert numbers([after]) == [3]


def test_the_line_that_a_power_cut_tore_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b'{"data":{"num')
    with opened(tmp_path / "events") as (sink, reader):
        assert reader.read() == []
        send(sink, event(1))
        torn, after = reader.read()
    assert isinstance(torn, EventLineError)
    assert numbers([after]) == [1]


@pytest.mark.parametrize(
    "line",
    [b"", b"5", b"[1]", b"\0\0\0", b"\xff", b'{"a":"\xff"}', b'{"a":' * 50_000, b'{"a":1} {}'],
    ids=["empty", "number", "list", "zeros", "bytes", "no UTF-8", "deep", "two"],
)
def test_a_line_that_is_no_event_is_told_and_the_next_one_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(line + b'\n{"data":{"number":7}}\n')
    with closing(JsonLinesReader(path)) as reader:
        wrong, right = reader.read()
    assert isinstance(wrong, EventLineError)
    assert "is no event; expected an object of JSON" in str(wrong)
    assert len(str(wrong)) < 1000
    assert wrong.file == path
    assert numbers([right]) == [7]


def test_what_the_sink_took_back_is_read_whole_when_it_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "events"
    first, second, third = (b'{"data":{"number":%d}}\n' % number for number in (1, 2, 3))
    with closing(JsonLinesReader(path)) as reader:
        path.write_bytes(first + second + b'{"torn":')
        assert numbers(reader.read()) == [1, 2]
        os.truncate(path, len(first))
        assert reader.read() == []
        with path.open("ab") as file:
            file.write(second + third)
        assert numbers(reader.read()) == [2, 3]


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        closing(JsonLinesReader(tmp_path)) as reader,
        pytest.raises(EventFileError, match="cannot be read: Is a directory") as refused,
    ):
        reader.read()
    assert refused.value.file == tmp_path
