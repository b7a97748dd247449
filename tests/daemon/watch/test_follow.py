"""`clearline events`: what it reads, what it shows, and that it outlives what it reads from."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plant.events import TOPICS, defect, of_camera, of_line, summary, uninspected
from plant.kafka import KafkaBroker, sink_to

import clearline
from adapters.errors import SinkError
from adapters.ports import Event
from adapters.sinks.cloud_event import structured
from adapters.sinks.jsonl import JsonLinesSink
from daemon.errors import ConfigurationError, StateError
from daemon.records.outbox import Outbox
from daemon.watch.follow import Filter, Source, show_events

LIMIT_S = 45.0
CONFIG = """
state_dir = "state"
[cameras.left]
url = "simulated:woven"
[cameras.right]
url = "simulated:woven"
[cameras.again]
url = "simulated:woven"
[recipes.default]
bundle = "none.safetensors"
"""
FOLLOW = """
import json, sys
from pathlib import Path
from daemon.watch.follow import Filter, show_events
source, where = json.loads(sys.argv[2])
show_events(Path(sys.argv[1]), source, follow=True, last=5, where=Filter(**where), as_json=True)
"""
ANY = Filter()


class Follower:
    """A process that follows until it is interrupted."""

    def __init__(self, config: Path, source: Source | None, where: dict[str, str]) -> None:
        arguments = [sys.executable, "-c", FOLLOW, str(config), json.dumps([source, where])]
        self._told, self._remarks = config.with_name("told"), config.with_name("remarks")
        with self._told.open("wb") as told, self._remarks.open("wb") as remarks:
            self.process = subprocess.Popen(arguments, stdout=told, stderr=remarks)

    def told(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in self._told.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]  # fmt: skip

    def remarks(self) -> str:
        return self._remarks.read_text()

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < deadline, (self.told(), self.remarks())
            assert self.process.poll() is None, self.remarks()
            time.sleep(0.02)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    file = tmp_path / "line.toml"
    file.write_text(CONFIG)
    return file


@contextmanager
def following(config: Path, source: Source | None = None, **where: str) -> Iterator[Follower]:
    follower = Follower(config, source, where)
    try:
        yield follower
    finally:
        follower.process.kill()
        follower.process.wait()


@contextmanager
def outbox_of(config: Path) -> Iterator[Outbox]:
    outbox = Outbox(config.parent / "state/outbox.sqlite", 1 << 28, 1.0, ["here"])
    try:
        yield outbox
    finally:
        outbox.close()


def put(config: Path, *events: Event) -> None:
    with outbox_of(config) as outbox:
        for event in events:
            outbox.put(event)


def show(
    config: Path, source: Source | None = None, *, last: int = 20, where: Filter = ANY
) -> None:
    show_events(config, source, follow=False, last=last, where=where, as_json=True)


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_kafka_it_is_the_outbox_also_where_no_daemon_runs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [defect(1), uninspected(2), summary()]
    put(config, *events)
    show(config)
    assert shown(capsys) == [structured(event) for event in events]


def test_the_last_ones_are_shown_of_those_that_are_wanted(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(config, *[defect(n, "left" if n % 2 else "right") for n in range(40)])
    show(config, last=3, where=Filter(camera="right"))
    assert [event["data"]["sequence"] for event in shown(capsys)] == [34, 36, 38]


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        (Filter(type="defect"), ["defect"]),
        (Filter(type="line"), ["drift", "summary"]),
        (Filter(camera="left"), ["up", "drift"]),
        (Filter(camera="right"), ["defect"]),
        (Filter(kind="drift"), ["drift"]),
        (Filter(kind="defect"), ["defect"]),
        (Filter(type="camera", camera="right"), []),
    ],
    ids=str,
)
def test_only_what_is_wanted_is_shown(
    config: Path, capsys: pytest.CaptureFixture[str], where: Filter, kinds: list[str]
) -> None:
    put(config, of_camera("up"), defect(1, "right"), of_line("drift", camera="left"), summary())
    show(config, where=where)
    told = [event["data"].get("kind", "defect") for event in shown(capsys)]
    assert told == kinds


def test_as_text_an_event_is_a_line_without_colours_where_nobody_sees_them(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(config, defect(1), of_line("dreams", of="[red]sheep[/]" * 40))
    show_events(config, None, follow=False, last=9, where=ANY, as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert " left       defect      1.38 x threshold, 2 regions, 4.1 mm2 at" in first
    assert second.endswith(f" line3      dreams      of={'[red]sheep[/]' * 40}")


def test_a_follower_waits_for_the_outbox_and_shows_each_event_once(config: Path) -> None:
    with following(config, camera="left") as follower:
        follower.wait_for(lambda: "outbox.sqlite: is not there" in follower.remarks())
        with outbox_of(config) as outbox:
            for number in range(1000):
                outbox.put(defect(number, "left" if number % 2 else "right"))
                if number % 100 == 99:
                    outbox.acknowledge("here", number + 1)
            follower.wait_for(lambda: bool(follower.told()))
            for number in range(1000, 1100):
                outbox.put(defect(number))
            last = outbox.store(defect(1100)).result(LIMIT_S)
            assert last
            follower.wait_for(lambda: follower.told()[-1]["data"]["sequence"] == 1100)
        told = [event["data"]["sequence"] for event in follower.told()]
        assert told == sorted(set(told))
        assert set(range(1000, 1101)) <= set(told)
        assert follower.interrupt() == 0
        assert follower.remarks().count("\n") == 1


def test_lines_of_json_are_shown_and_followed(config: Path) -> None:
    file = config.parent / "state/events.jsonl"
    sink = JsonLinesSink(file, max_bytes=4000, keep=100)  # a few events

    async def write(numbers: range) -> None:
        for number in numbers:
            await sink.send([defect(number)])

    asyncio.run(write(range(20)))
    with following(config, "jsonl") as follower:
        follower.wait_for(lambda: len(follower.told()) == 5)
        asyncio.run(write(range(20, 40)))
        follower.wait_for(lambda: len(follower.told()) == 25)
        with file.open("a") as torn:
            torn.write("no json\n")
        follower.wait_for(lambda: "is no event" in follower.remarks())
        assert [e["data"]["sequence"] for e in follower.told()] == list(range(15, 40))
    asyncio.run(sink.close())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        for topic in TOPICS:
            asyncio.run(broker.create_topic(topic))
        yield broker


def send(broker: KafkaBroker, *events: Event) -> None:
    async def sending() -> None:
        sink = sink_to(broker)
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await sink.send(events)
                    break
                except SinkError:
                    await asyncio.sleep(0.1)
        await sink.close()

    asyncio.run(sending())


def with_kafka(config: Path, address: str) -> Path:
    config.write_text(f'{CONFIG}[kafka]\nbootstrap = ["{address}"]\n')
    return config


def test_where_the_line_has_kafka_its_events_are_shown_in_order_of_time(
    config: Path, broker: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    now_ns = time.time_ns()
    told = [defect(1), uninspected(2), summary(), defect(3), of_camera("up")]
    events = [replace(one, wall_ns=now_ns + n * 1_000_000) for n, one in enumerate(told)]
    send(broker, *events)
    show(with_kafka(config, broker.address), last=4)
    assert shown(capsys) == [structured(event) for event in events[1:]]


def test_a_follower_of_kafka_outlives_the_broker(config: Path, broker: KafkaBroker) -> None:
    with following(with_kafka(config, broker.address), kind="defect", camera="again") as follower:
        send(broker, defect(1, "again"))
        follower.wait_for(lambda: len(follower.told()) == 1)
        broker.kill()
        follower.wait_for(lambda: "cannot be read" in follower.remarks())
        broker.start()
        send(broker, defect(2, "again"), defect(3, "another"), defect(4, "again"))
        follower.wait_for(lambda: len(follower.told()) == 3)
        assert [event["data"]["sequence"] for event in follower.told()] == [1, 2, 4]
        assert all(line.startswith("clearline: ") for line in follower.remarks().splitlines())
        assert follower.interrupt() == 0


def test_without_follow_a_source_that_cannot_be_read_is_an_error(config: Path) -> None:
    with pytest.raises(StateError, match="is not there"):
        show(config, "outbox")
    with pytest.raises(StateError, match="is not there"):
        show(config, "jsonl")
    with pytest.raises(ConfigurationError, match=r"kafka\.bootstrap names no broker"):
        show(config, "kafka")
    with_kafka(config, "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"events\.jsonl is not set"):
        show(config, "jsonl")
    with pytest.raises(clearline.Error, match=r"127\.0\.0\.1:1"):
        show(config)


def test_a_camera_that_the_line_does_not_have_is_refused_with_those_that_it_has(
    config: Path,
) -> None:
    put(config, defect(1))
    told = r"camera = 'lfet' is no camera of this line; expected left or right or again"
    with pytest.raises(ConfigurationError, match=told):
        show(config, where=Filter(camera="lfet"))


def test_of_the_last_lines_those_that_are_no_events_are_remarked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "state/events.jsonl").write_text('{"data":{"n":1}}\nno json\n{"data":{}}\n')
    show(config, "jsonl")
    told = capsys.readouterr()
    assert "is no event" in told.err
    assert told.out.splitlines() == ['{"data":{"n":1}}', '{"data":{}}']


@pytest.mark.parametrize("as_json", ["True", "False"])
def test_who_reads_only_the_first_lines_sees_no_error(config: Path, as_json: str) -> None:
    put(config, defect(1))
    read, write = os.pipe()
    code = FOLLOW.replace("follow=True, last=5", "follow=False, last=5")
    code = code.replace("as_json=True", f"as_json={as_json}")
    arguments = [sys.executable, "-c", code, str(config), '["outbox", {}]']
    os.close(read)
    ended = subprocess.run(
        arguments, stdout=write, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_is_missed_is_remarked(config: Path) -> None:
    """Stopped while more events pass than the outbox keeps for those who look on."""
    with outbox_of(config) as outbox, following(config) as follower:
        outbox.store(defect(0)).result(LIMIT_S)
        follower.wait_for(lambda: len(follower.told()) == 1)
        follower.process.send_signal(signal.SIGSTOP)
        for number in range(1, 1500):
            outbox.put(defect(number))
        outbox.depth().result(LIMIT_S)
        outbox.acknowledge("here", 1500).result(LIMIT_S)
        follower.process.send_signal(signal.SIGCONT)
        follower.wait_for(lambda: len(follower.told()) == 1001)
        assert "lacks 499 events" in follower.remarks()
