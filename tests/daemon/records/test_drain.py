"""The drainer with a real outbox: at least once, in order, whatever the far end does."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.errors import SinkError
from adapters.ports import Event, Refusal
from daemon.records.drain import BATCH, Drain
from daemon.records.outbox import Outbox
from daemon.records.outbox_report import NAME, report, requeue
from daemon.supervise import Backoff

MakeEvent = Callable[..., Event]
Until = Callable[..., object]


class ScriptedSink:
    """Takes what comes, but fails as often as it is told, before or after it took it."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.calls = 0
        self.refuse = 0
        self.forget = 0
        self.longest = 0
        self.unwanted: set[int] = set()

    async def send(self, events: Sequence[Event]) -> Sequence[Refusal]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.refuse:
            self.refuse -= 1
            raise SinkError("is not there")
        self.got += [event.data["number"] for event in events]
        self.longest = max(self.longest, len(events))
        if self.forget:
            self.forget -= 1
            raise SinkError("did not acknowledge")
        return [Refusal(e, "is not wanted") for e in events if e.data["number"] in self.unwanted]

    async def close(self) -> None: ...


@pytest_asyncio.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = Outbox(tmp_path / NAME, 1 << 28, 1.0, ["here"])
    yield outbox
    outbox.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.records.drain.Backoff", lambda: Backoff(first=0.01, ceiling=0.02))


async def depth(outbox: Outbox) -> int:
    return await asyncio.wrap_future(outbox.depth())


async def ended(drain: Drain, task: asyncio.Task[None]) -> None:
    drain.finish()
    async with asyncio.timeout(10):
        await task


async def test_events_are_sent_as_they_are_committed_and_forgotten(
    outbox: Outbox, event: MakeEvent, until: Until
) -> None:
    sink = ScriptedSink()
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    for k in range(3):
        outbox.put(event(k))
        await until(lambda k=k: sink.got == list(range(k + 1)))
    await ended(drain, task)
    assert await depth(outbox) == 0


async def test_many_events_go_in_batches_in_order(outbox: Outbox, event: MakeEvent) -> None:
    sink, count = ScriptedSink(), 3 * BATCH + 5
    for k in range(count):
        outbox.put(event(k))
    drain = Drain(outbox, "here", sink)
    await ended(drain, asyncio.create_task(drain.run()))
    assert sink.got == list(range(count))
    assert sink.longest == BATCH
    assert await depth(outbox) == 0


async def test_what_the_far_end_refuses_is_sent_again_and_nothing_is_lost_or_doubled(
    outbox: Outbox, event: MakeEvent, until: Until
) -> None:
    sink = ScriptedSink()
    sink.refuse = 4
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    for k in range(20):
        outbox.put(event(k))
    await until(lambda: len(sink.got) == 20)
    assert sink.got == list(range(20))
    await ended(drain, task)


async def test_doubles_come_only_of_a_failure_after_the_far_end_took_them(
    outbox: Outbox, event: MakeEvent, until: Until
) -> None:
    sink = ScriptedSink()
    for k in range(5):
        outbox.put(event(k))
    await depth(outbox)
    sink.forget = 1
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    await until(lambda: sink.calls >= 2)
    await ended(drain, task)
    assert sink.got == [*range(5), *range(5)]


async def test_a_far_end_that_is_away_is_left_alone_for_the_pause_though_events_come(
    outbox: Outbox, event: MakeEvent, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a busy line asks a dead broker at every event, and logs each time."""
    monkeypatch.setattr("daemon.records.drain.Backoff", lambda: Backoff(first=30.0, ceiling=30.0))
    sink = ScriptedSink()
    sink.refuse = 1000
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    outbox.put(event(0))
    await until(lambda: sink.calls >= 1)
    for k in range(1, 20):
        outbox.put(event(k))
        await depth(outbox)
        for _ in range(4):
            await asyncio.sleep(0)
    assert sink.calls <= 2
    await ended(drain, task)


async def test_pauses_double_to_a_ceiling_and_begin_anew_after_success() -> None:
    backoff = Backoff(first=0.2, ceiling=1.0)
    assert [backoff.next() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next() == 0.2


async def test_finish_sends_the_rest_also_out_of_a_pause(
    outbox: Outbox, event: MakeEvent, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.records.drain.Backoff", lambda: Backoff(first=30.0, ceiling=30.0))
    sink = ScriptedSink()
    sink.refuse = 1
    drain = Drain(outbox, "here", sink)
    outbox.put(event(0))
    await depth(outbox)
    task = asyncio.create_task(drain.run())
    await until(lambda: sink.calls >= 1)
    outbox.put(event(1))
    await ended(drain, task)
    assert sink.got == [0, 1]


async def test_finish_ends_though_the_far_end_is_away_and_keeps_what_is_left(
    outbox: Outbox, event: MakeEvent
) -> None:
    sink = ScriptedSink()
    sink.refuse = 1000
    for k in range(3):
        outbox.put(event(k))
    drain = Drain(outbox, "here", sink)
    await ended(drain, asyncio.create_task(drain.run()))
    assert sink.got == []
    assert await depth(outbox) == 3


async def test_cancelled_while_it_waits_for_the_disk_it_leaves_the_outbox_alive(
    outbox: Outbox, event: MakeEvent, until: Until
) -> None:
    """As a stop does when the time to drain is over."""
    busy, go_on = threading.Event(), threading.Event()
    drain = Drain(outbox, "here", ScriptedSink())
    faults: list[object] = []
    hook, threading.excepthook = threading.excepthook, faults.append
    outbox.on_commit.append(lambda: (busy.set(), go_on.wait(10)))
    try:
        outbox.put(event(0))
        assert busy.wait(10)
        task = asyncio.create_task(drain.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        async with asyncio.timeout(2):
            assert await depth(outbox) == 1
    finally:
        go_on.set()
        threading.excepthook = hook
    assert not faults


async def test_a_disk_that_fails_makes_events_wait_and_does_not_end_the_line(
    outbox: Outbox, event: MakeEvent, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acknowledgement needs the disk as well; a full one is no reason to stop inspecting."""
    failures, advance = [3], outbox._file.advance

    def failing(sink: str, seq: int) -> None:
        if failures[0]:
            failures[0] -= 1
            raise sqlite3.OperationalError("database or disk is full")
        advance(sink, seq)

    monkeypatch.setattr(outbox._file, "advance", failing)
    monkeypatch.setattr("daemon.records.outbox.RETRY_SECONDS", 0.01)
    sink = ScriptedSink()
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    outbox.put(event(0))
    await until(lambda: not failures[0] or task.done())
    assert not task.done(), task.exception()
    await ended(drain, task)
    assert await depth(outbox) == 0
    assert sink.got == [0], "a disk that fails is no reason to send it again"


async def test_what_the_far_end_refuses_for_good_is_a_dead_letter_and_the_rest_flows_on(
    outbox: Outbox, event: MakeEvent, tmp_path: Path
) -> None:
    sink = ScriptedSink()
    sink.unwanted = {1, BATCH + 1}
    for k in range(BATCH + 5):
        outbox.put(event(k))
    drain = Drain(outbox, "here", sink)
    await ended(drain, asyncio.create_task(drain.run()))
    assert await depth(outbox) == 0
    letters = report(tmp_path)["dead_letters"]
    assert [letter["event"] for letter in letters] == ["line/left/1/1", f"line/left/1/{BATCH + 1}"]
    assert {letter["reason"] for letter in letters} == {"is not wanted"}


async def test_dead_letters_that_another_process_puts_back_are_sent_by_themselves(
    outbox: Outbox, event: MakeEvent, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.records.drain.LOOK_SECONDS", 0.05)
    sink = ScriptedSink()
    sink.unwanted = {1}
    drain = Drain(outbox, "here", sink)
    task = asyncio.create_task(drain.run())
    for k in range(3):
        outbox.put(event(k))
    await until(lambda: len(sink.got) == 3)
    await until(lambda: bool(report(tmp_path)["dead_letters"]))
    sink.unwanted = set()
    assert requeue(tmp_path, None) == 1
    await until(lambda: sink.got == [0, 1, 2, 1])
    await until(lambda: report(tmp_path)["waiting"] == 0)
    assert report(tmp_path)["dead_letters"] == []
    await ended(drain, task)


async def test_each_sink_gets_everything_whatever_the_others_do(
    outbox: Outbox, event: MakeEvent, until: Until, tmp_path: Path
) -> None:
    outbox.close()
    both = Outbox(tmp_path / NAME, 1 << 28, 1.0, ["dead", "here"])
    dead, alive = ScriptedSink(), ScriptedSink()
    dead.refuse = 10**9
    drains = [Drain(both, "dead", dead), Drain(both, "here", alive)]
    tasks = [asyncio.create_task(drain.run()) for drain in drains]
    try:
        for k in range(20):
            both.put(event(k))
        await until(lambda: len(alive.got) == 20)
        assert await depth(both) == 20
        assert report(tmp_path)["waiting_by_sink"] == {"dead": 20, "here": 0}
        dead.refuse = 0
        await until(lambda: len(dead.got) == 20)
        assert alive.got == dead.got == list(range(20))
        for drain, task in zip(drains, tasks, strict=True):
            await ended(drain, task)
        assert await depth(both) == 0
    finally:
        both.close()
