"""The road to the PLC while its broker is gone, frozen, locked or not to be found."""

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from plant.broker import Broker, free_port, make_certificate
from plant.mqtt import BASE, Plc, road_to, running, states, until, verdict
from structlog.testing import capture_logs

from adapters.ports import Beat, MachineState
from adapters.sinks.mqtt import WAITING
from adapters.sinks.mqtt_link import MqttLink, Tls

STALL_S = 0.005


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """To be killed or frozen."""
    with Broker(tmp_path) as broker:
        yield broker


@contextlib.asynccontextmanager
async def loop_watched() -> AsyncIterator[list[float]]:
    """Gives how long each turn of the event loop came late, in seconds."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            lags.append(time.monotonic() - before - 0.001)

    task = asyncio.create_task(watch())
    yield lags
    task.cancel()


def calm(lags: list[float]) -> bool:
    """Other processes take their turns too: some may be late for them, but none is long."""
    ordered = sorted(lags)
    return ordered[len(ordered) * 9 // 10] < STALL_S and ordered[-1] < 20 * STALL_S


async def test_our_sockets_send_at_once(own_broker: Broker, links: list[MqttLink]) -> None:
    road = road_to(own_broker)
    async with running(road):
        own_broker.restart()
        await until(lambda: road.connections == 2)
        sock = links[-1]._socket
        assert sock is not None
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert len(links) >= 2


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[MqttLink]:
    """Every connection that is begun."""
    begun: list[MqttLink] = []

    class Noted(MqttLink):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            begun.append(self)

    monkeypatch.setattr("adapters.sinks.mqtt.MqttLink", Noted)
    return begun


async def test_a_death_is_told_by_the_will(own_broker: Broker, links: list[MqttLink]) -> None:
    road = road_to(own_broker)
    async with Plc(own_broker, f"{BASE}/state") as plc, running(road):
        await until(lambda: states(plc) == [{"online": True}])
        links[0]._socket.shutdown(socket.SHUT_RDWR)
        await until(lambda: road.reconnections == 1 and states(plc)[-1]["online"])
    assert {"online": False} in states(plc)


async def test_tls_and_a_password_open_the_road(tmp_path: Path) -> None:
    with Broker(tmp_path, tls=True, user="line", password="open sesame") as broker:
        login = {"username": "line", "password": "open sesame"}
        road = road_to(broker, tls=Tls(broker.ca), **login)
        async with Plc(broker, **login) as plc, running(road):
            for n in range(200):
                road.tell(verdict(n))
            await until(lambda: len(plc.heard) == 200)
    assert plc.msg_nos() == list(range(1, 201))


@pytest.mark.parametrize("wrong", ["password", "certificate"])
async def test_a_broker_that_is_not_ours_is_logged_and_tried_again(
    tmp_path: Path, wrong: str, links: list[MqttLink]
) -> None:
    with Broker(tmp_path, tls=True, user="line", password="right") as broker:
        trusted = broker.ca
        if wrong == "certificate":
            (tmp_path / "other").mkdir()
            trusted = tmp_path / "other" / "ca.pem"
            make_certificate(trusted, tmp_path / "other" / "key.pem")
        password = "wrong" if wrong == "password" else "right"
        road = road_to(broker, tls=Tls(trusted), username="line", password=password)
        with capture_logs() as logs:
            async with running(road, up=False), loop_watched() as lags:
                await until(lambda: len(links) == 4)
    assert road.connections == 0
    assert calm(lags)
    said = [line["problem"] for line in logs if line["event"] == "plc road away"]
    assert len(said) == 1  # three failures within a second
    assert ("Not authorized" if wrong == "password" else "certificate verify failed") in said[0]
    assert password not in repr(road._settings)


async def test_after_a_restart_of_the_broker_nothing_old_is_sent(
    own_broker: Broker, links: list[MqttLink]
) -> None:
    road = road_to(own_broker)
    async with running(road):
        async with Plc(own_broker) as plc:
            road.tell(verdict(0))
            await until(lambda: plc.msg_nos() == [1])
            own_broker.kill()
            await until(links[0].lost.done)
            await asyncio.sleep(0)
        for n in range(1, 11):
            road.tell(verdict(n))
            road.beat(Beat(MachineState.READY, n, 1, 1, 200, 1.0))
        own_broker.start()
        async with Plc(own_broker) as plc:
            await until(lambda: road.reconnections == 1)
            road.tell(verdict(11))
            await until(lambda: len(plc.heard) > 0)
    assert plc.msg_nos() == [12]  # 2 to 11 are lost, and the gap says so
    assert len(plc.heard) == 1
    assert road.unsent == 10


async def test_what_waited_when_the_connection_broke_is_dropped(
    own_broker: Broker, links: list[MqttLink]
) -> None:
    road = road_to(own_broker)
    async with running(road):
        links[0]._socket.shutdown(socket.SHUT_RDWR)
        for n in range(100):  # before anyone has noticed
            road.tell(verdict(n))
        async with Plc(own_broker) as plc:
            await until(lambda: road.reconnections == 1)
            road.tell(verdict(100))
            await until(lambda: len(plc.heard) > 0)
    assert plc.msg_nos() == [101]
    assert road.unsent == 100


async def test_a_frozen_broker_costs_neither_time_nor_memory(own_broker: Broker) -> None:
    road = road_to(own_broker)
    async with Plc(own_broker) as plc, running(road):
        memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own_broker.freeze()
        told, slowest = 0, 0.0
        frozen = time.monotonic()
        while (passed := time.monotonic() - frozen) < 3:
            while told < 500 * passed:
                before = time.monotonic()
                road.tell(verdict(told))
                slowest = max(slowest, time.monotonic() - before)
                told += 1
            assert len(road._verdicts) <= WAITING
            await asyncio.sleep(0.002)
        own_broker.thaw()
        await until(lambda: road.reconnections >= 1)
        road.tell(verdict(told))
        await until(lambda: told + 1 in plc.msg_nos())
    assert slowest < STALL_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 16 * 1024
    # Hundreds lie in its kernel, but it gives up a client that it did not hear for so long.
    assert len(plc.verdicts()) < 50


async def test_a_publish_that_is_not_taken_ends_the_connection(
    own_broker: Broker, links: list[MqttLink]
) -> None:
    road = road_to(own_broker)
    async with running(road):
        own_broker.freeze()
        began = time.monotonic()
        road.state({"wants": "an answer"})  # QoS 1
        await until(links[0].lost.done)
        assert 0.4 < time.monotonic() - began < 1
        own_broker.thaw()
        async with Plc(own_broker, f"{BASE}/state") as plc:
            await until(lambda: {"online": True, "wants": "an answer"} in states(plc))


async def test_a_clean_stop_is_bounded_where_nobody_answers(own_broker: Broker) -> None:
    async with running(road_to(own_broker)) as task:
        own_broker.freeze()
        began = time.monotonic()
        task.cancel()
        await asyncio.wait((task,))
        assert time.monotonic() - began < 1


@pytest.fixture
def blackhole() -> Iterator[socket.socket]:
    """A listener that takes no more connections: their handshake is not answered."""
    with socket.socket() as listener, socket.socket() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # room for one
        waiting.connect(listener.getsockname())
        yield listener


@pytest.mark.parametrize("where", ["dead", "blackhole", "no such name"])
async def test_a_broker_that_is_not_there_stalls_nobody(
    blackhole: socket.socket, where: str, links: list[MqttLink]
) -> None:
    port = blackhole.getsockname()[1] if where == "blackhole" else free_port()
    host = "no-such-host.invalid" if where == "no such name" else "127.0.0.1"
    road = road_to(port, host=host)
    async with running(road, up=False), loop_watched() as lags:
        await until(lambda: len(links) == 2)
        road.tell(verdict())
    assert road.unsent == 1
    assert calm(lags)


async def test_a_stop_while_connecting_waits_for_nobody(blackhole: socket.socket) -> None:
    async with running(road_to(blackhole.getsockname()[1]), up=False) as task:
        await asyncio.sleep(0)  # it has begun
        task.cancel()
        began = time.monotonic()
        await asyncio.wait((task,))
    assert time.monotonic() - began < 0.1


async def test_what_connects_after_a_stop_is_closed(blackhole: socket.socket) -> None:
    async with running(road_to(blackhole.getsockname()[1]), up=False):
        await asyncio.sleep(0)
    blackhole.accept()[0].close()
    blackhole.settimeout(5)
    late, _ = blackhole.accept()  # the kernel of the other end tries again by itself
    with late, contextlib.suppress(ConnectionResetError):
        late.settimeout(5)
        while late.recv(4096):
            pass


async def test_the_road_comes_up_while_the_default_executor_is_full(own_broker: Broker) -> None:
    done = threading.Event()
    stuck = [asyncio.get_running_loop().run_in_executor(None, done.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(5), running(road_to(own_broker, host="localhost")) as task:
            assert not task.done()
    finally:
        done.set()
        await asyncio.gather(*stuck)
