"""The files of JSON lines: whole events, in order, and never half of one."""

import asyncio
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.errors import SinkError
from adapters.jsonl_files import numbered
from adapters.ports import Event
from adapters.sinks import jsonl
from adapters.sinks.cloud_event import structured
from adapters.sinks.jsonl import JsonLinesSink

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


def files(path: Path) -> list[list[int]]:
    """What stands in each, from the oldest to the one that grows."""
    numbers = sorted(
        (int(file.suffix[1:]) for file in path.parent.glob(f"{path.name}.*")), reverse=True
    )
    return [sequences(numbered(path, number)) for number in (*numbers, 0)]


@contextmanager
def opened(path: Path, max_bytes: int = 64 << 20, keep: int = 8) -> Iterator[JsonLinesSink]:
    sink = JsonLinesSink(path, max_bytes, keep)
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
        "dataschema": "urn:clearline:schema:clearline.defect.v1",
        "partitionkey": "line3/cam2",
        "datacontenttype": "application/json",
        "data": {"sequence": 5, "event_time_ms": 1785312000123, "filling": ""},
    }


@given(st.integers(0, 4_000_000_000_000_000_000))
@example(1_785_312_000_122_999_999)
def test_the_time_is_the_same_millisecond_as_in_the_data(wall_ns: int) -> None:
    said = structured(event(0, wall_ns=wall_ns))
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
    assert list(tmp_path.iterdir()) == []


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


LINE_BYTES = len(json.dumps(structured(event(10)), separators=(",", ":"))) + 1
"""Of an event without a filling, of two digits."""


def test_a_file_that_would_grow_too_large_is_renamed_and_the_oldest_given_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    with opened(path, max_bytes=2 * LINE_BYTES, keep=3) as sink:
        for number in range(10, 21):
            asyncio.run(send(sink, event(number)))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3",
    ]  # fmt: skip
    assert files(path) == [[14, 15], [16, 17], [18, 19], [20]]


def test_a_list_is_split_where_a_file_is_full_and_only_between_lines(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with opened(path, max_bytes=3 * LINE_BYTES) as sink:
        asyncio.run(send(sink, event(10)))
        asyncio.run(send(sink, *(event(number) for number in range(11, 18))))
    assert files(path) == [[10, 11, 12], [13, 14, 15], [16, 17]]


def test_a_line_that_is_too_large_has_a_file_of_its_own(tmp_path: Path) -> None:
    path, large = tmp_path / "events", 2 * LINE_BYTES
    with opened(path, max_bytes=2 * LINE_BYTES) as sink:
        asyncio.run(send(sink, event(10), event(11, large), event(12, large), event(13)))
    assert files(path) == [[10], [11], [12], [13]]


@settings(max_examples=40, deadline=None)  # each waits for the disk
@given(
    st.lists(st.lists(st.integers(0, 600), max_size=8), max_size=12),
    st.integers(LINE_BYTES, 5 * LINE_BYTES),
)
def test_no_file_is_larger_than_it_may_be_unless_for_a_single_line(
    tmp_path_factory: pytest.TempPathFactory, fillings: list[list[int]], max_bytes: int
) -> None:
    path, numbers = tmp_path_factory.mktemp("files") / "events", itertools.count()
    with opened(path, max_bytes, keep=100) as sink:
        for batch in fillings:
            asyncio.run(send(sink, *(event(next(numbers), filling) for filling in batch)))
    for file in path.parent.iterdir():
        assert file.stat().st_size <= max_bytes or len(lines(file)) == 1
    if any(fillings):
        assert list(itertools.chain(*files(path))) == list(range(next(numbers)))


def test_each_name_is_on_the_disk_before_anything_follows_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace, fsync = os.replace, os.fsync

    def replaces(*names: Path) -> None:
        steps.append("rename")
        replace(*names)

    def syncs(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    monkeypatch.setattr(os, "replace", replaces)
    monkeypatch.setattr(os, "fsync", syncs)
    with opened(tmp_path / "events", max_bytes=2 * LINE_BYTES) as sink:
        asyncio.run(send(sink, event(10)))
        assert steps == ["file", "folder"]
        asyncio.run(send(sink, event(11), event(12), event(13)))
        assert steps[2:] == ["file", "rename", "folder", "file", "folder"]
        asyncio.run(send(sink, event(14)))
    assert steps[7:] == ["rename", "folder", "rename", "folder", "file", "folder"]


class Killed(BaseException):
    """Nothing of the sink's catches it."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """The process ends before its so manieth rename, fsync or write (of which half is done then).
    Whether it came to that."""
    steps = itertools.count()
    write_all = jsonl._write_all

    def dies(do: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any) -> Any:
            if next(steps) != step:
                return do(*args)
            if do is write_all:
                write_all(args[0], args[1][: len(args[1]) // 2])
            raise Killed

        return instead

    monkeypatch.setattr(os, "replace", dies(os.replace))
    monkeypatch.setattr(os, "fsync", dies(os.fsync))
    monkeypatch.setattr(jsonl, "_write_all", dies(write_all))
    return lambda: next(steps) > step


def sent_through_a_kill(path: Path, batches: Sequence[list[Event]], keep: int) -> list[list[int]]:
    """Files, without lines that the kill tore. What was not acknowledged is sent again."""
    for batch in batches:
        try:
            with opened(path, 2 * LINE_BYTES, keep) as sink:
                asyncio.run(send(sink, *batch))
        except Killed:
            with opened(path, 2 * LINE_BYTES, keep) as sink:
                asyncio.run(send(sink, *batch))
    for file in path.parent.iterdir():
        whole = [line for line in file.read_bytes().splitlines() if line.endswith(b"}}")]
        file.write_bytes(b"\n".join(whole))
    return files(path)


def test_a_kill_at_any_step_loses_no_line_and_doubles_none_but_of_its_list(tmp_path: Path) -> None:
    batches = [[event(10 * b + k) for k in range(3)] for b in range(1, 6)]
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            was_killed = killed_at(step, patch)
            found = list(itertools.chain(*sent_through_a_kill(folder / "e", batches, keep=50)))
            if not was_killed():
                break
        assert sorted(set(found)) == [e.data["sequence"] for batch in batches for e in batch]
        doubled = {number for number in found if found.count(number) > 1}
        assert len({number // 10 for number in doubled}) <= 1
        assert len(found) - len(doubled) == len(set(found))
        assert list(dict.fromkeys(found)) == sorted(set(found))
    assert step > 40


def test_a_kill_at_any_step_gives_up_no_file_that_would_have_been_kept(tmp_path: Path) -> None:
    batches = [[event(number)] for number in range(10, 25)]
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            was_killed = killed_at(step, patch)
            found = list(itertools.chain(*sent_through_a_kill(folder / "e", batches, keep=3)))
            if not was_killed():
                break
        # Three full files and one that grows; a torn or doubled line may take the place of one.
        assert list(dict.fromkeys(found))[-6:] == list(range(19, 25))
    assert step > 40


def test_a_real_kill_loses_no_acknowledged_line(tmp_path: Path) -> None:
    writer = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from adapters.ports import Event\nfrom adapters.sinks.jsonl import JsonLinesSink\n"
        "async def main():\n"
        "    sink = JsonLinesSink(Path(sys.argv[1]), 2000, 10_000)\n"
        "    for k in range(int(sys.argv[2]), 10**9):\n"
        "        await sink.send([Event(str(k), 'clearline.line.v1', '/s', 'l', 'l', 0,"
        " {'sequence': k})])\n"
        "        print(k, flush=True)\n"
        "asyncio.run(main())\n"
    )
    path, told = tmp_path / "events", -1
    for enough in (40, 81):
        command = [sys.executable, "-c", writer, str(path), str(told + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while told < enough:
                told = int(process.stdout.readline())
            process.kill()
            told = max([told, *(int(line) for line in process.stdout.read().split())])
    found = list(itertools.chain(*files(path)))
    assert sorted(set(found)) in (list(range(told + 1)), list(range(told + 2)))
    assert len(files(path)) > 10
