"""What the events' road gives: outbox, drainer and Kafka sink against a real broker beside them.

    python tests/bench/events_road.py [--events N] [--backlog N] [--rate PER_S] [--seconds S]

Beside it, in the same run, its two halves alone: SQLite with the same durability, and aiokafka's
producer. Events are of 2 KB. Nothing else should run on the machine.
"""

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # noqa: E402
from plant.kafka import KafkaBroker, sink_to  # noqa: E402

from adapters.ports import Event  # noqa: E402
from daemon.deadlines import percentile  # noqa: E402
from daemon.records.drain import Drain  # noqa: E402
from daemon.records.outbox import Outbox  # noqa: E402

TOPIC = "clearline.defect.v1"
CAMERAS = 8
FILLING = "x" * 1600  # with the rest of it 2 KB
GROUP = 256
UNDER_WAY = 2048  # events that are put and not yet acknowledged, at full speed


def event(number: int) -> Event:
    camera = f"cam{number % CAMERAS}"
    data = {
        "schema_version": 1, "event_id": f"line3/{camera}/1/{number}", "camera": camera,
        "kind": "bench", "put_ns": time.monotonic_ns(), "filling": FILLING,
    }  # fmt: skip
    return Event(
        f"line3/{camera}/1/{number}", TOPIC, f"/site/line3/{camera}", camera, f"line3/{camera}",
        time.time_ns(), data, f"{1:010d}-{number:020d}",
    )  # fmt: skip


def sqlite_alone(folder: Path, count: int) -> float:
    """Rows a second, in commits of GROUP."""
    database = sqlite3.connect(folder / "alone.sqlite", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, body BLOB)")
    body = b"x" * 2048
    began = time.perf_counter()
    for _ in range(count // GROUP):
        database.execute("BEGIN")
        database.executemany("INSERT INTO rows (body) VALUES (?)", [(body,)] * GROUP)
        database.execute("COMMIT")
    took = time.perf_counter() - began
    database.close()
    return count // GROUP * GROUP / took


async def aiokafka_alone(broker: KafkaBroker, count: int) -> float:
    """Records a second, pipelined, acks=all."""
    body = b"x" * 2048
    async with AIOKafkaProducer(bootstrap_servers=broker.address, acks="all") as producer:
        began = time.perf_counter()
        for first in range(0, count, GROUP):
            sent = [
                await producer.send("alone", body, key=b"%d" % (n % CAMERAS))
                for n in range(first, first + GROUP)
            ]
            await asyncio.gather(*sent)
        return count // GROUP * GROUP / (time.perf_counter() - began)


class Road:
    """The outbox and its drainer, and how late the event loop comes beside them."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self.outbox = Outbox(folder / "outbox.sqlite", 4 << 30, 24.0, ["kafka"])
        self.drain = Drain(self.outbox, "kafka", sink_to(broker))
        self.lateness_ms: list[float] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            await tasks.create_task(self.drain.run())
            watching.cancel()

    async def has(self, at_least: int, at_most: int) -> None:
        """So many events wait. By their numbers: to count 100,000 rows costs the outbox time."""
        while not at_least <= await self.waiting() <= at_most:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def waiting(self) -> int:
        def waiting() -> int:
            file = self.outbox._file
            return file.last_seq() - file.cursors()["kafka"]

        return await asyncio.wrap_future(self.outbox._ask(waiting))

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + 0.002
            await asyncio.sleep(0.002)
            self.lateness_ms.append(1000 * (time.perf_counter() - due))


async def at_full_speed(road: Road, count: int) -> float:
    """Durable events a second: from the first put to the last acknowledgement in the outbox."""
    began = time.perf_counter()
    for first in range(0, count, GROUP):
        for number in range(first, first + GROUP):
            road.outbox.put(event(number))
        await road.has(0, UNDER_WAY)
    await road.has(0, 0)
    return count // GROUP * GROUP / (time.perf_counter() - began)


async def to_the_hand(road: Road, broker: KafkaBroker, rate: float, seconds: float) -> list[float]:
    """Milliseconds from `put` to a consumer in a process of its own, at a steady rate."""
    listen = [sys.executable, __file__, "--listen", broker.address]
    listener = await asyncio.create_subprocess_exec(
        *listen, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert listener.stdout is not None
    await listener.stdout.readline()  # it stands at the topic's end
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        road.outbox.put(event(number))
    await road.has(0, 0)
    road.outbox.put(event(-1))
    took: list[float] = json.loads(await listener.stdout.readline())
    await listener.wait()
    return took


async def listen(address: str) -> None:
    took: list[float] = []
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=address, auto_offset_reset="latest")
    async with consumer:
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        print("ready", flush=True)
        async for record in consumer:
            data = json.loads(record.value)
            if data["event_id"].endswith("/-1"):
                break
            took.append((time.monotonic_ns() - data["put_ns"]) / 1e6)
    print(json.dumps(took), flush=True)


async def fill(road: Road, count: int) -> None:
    for first in range(0, count, GROUP):
        for number in range(first, first + GROUP):
            road.outbox.put(event(number))
        await road.has(first, count + GROUP)


async def measure(folder: Path, given: argparse.Namespace) -> None:
    (folder / "kafka").mkdir()
    with KafkaBroker(folder / "kafka", properties={"num.partitions": 3}) as broker:
        rows = sqlite_alone(folder, given.events)
        await broker.create_topic(TOPIC, 3)
        await broker.create_topic("alone", 3)
        await aiokafka_alone(broker, GROUP * 4)  # the broker's own warming up
        records = await aiokafka_alone(broker, given.events)
        print(f"SQLite alone, 2 KB, {GROUP} a commit: {rows:,.0f} rows/s")
        print(f"aiokafka alone, 2 KB, pipelined: {records:,.0f} records/s")
        road = Road(folder, broker)
        running = asyncio.create_task(road.run())
        durable = await at_full_speed(road, given.events)
        print(
            f"put to acknowledgement: {durable:,.0f} events/s,"
            f" {durable / rows:.2f} of SQLite alone, {durable / records:.2f} of aiokafka alone"
        )
        road.lateness_ms.clear()
        took = await to_the_hand(road, broker, given.rate, given.seconds)
        late = sorted(road.lateness_ms)
        print(
            f"put to a consumer's hand at {given.rate:g}/s: p50 {percentile(took, 50):.1f} ms,"
            f" p99 {percentile(took, 99):.1f} ms, max {max(took):.1f} ms of {len(took)}"
        )
        print(f"  the loop meanwhile: p99 {percentile(late, 99):.1f}, max {late[-1]:.1f} ms late")
        broker.kill()
        await fill(road, given.backlog)
        left = await road.waiting()
        threading.Thread(target=broker.start).start()
        await road.has(0, left - 1)
        road.lateness_ms.clear()
        began = time.perf_counter()
        await road.has(0, 0)
        rate = left / (time.perf_counter() - began)
        late = sorted(road.lateness_ms)
        print(
            f"after an outage of {left:,} events: {rate:,.0f} events/s,"
            f" {rate / records:.2f} of aiokafka alone"
        )
        print(f"  the loop meanwhile: p99 {percentile(late, 99):.1f}, max {late[-1]:.1f} ms late")
        road.drain.finish()
        await running
        await road.drain.close()
        road.outbox.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.listen:
        asyncio.run(listen(given.listen))
        return
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(measure(Path(made), given))


if __name__ == "__main__":
    main()
