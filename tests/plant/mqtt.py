"""Both ends of the road to the PLC: a road of ours that runs, and an independent client."""

import asyncio
import contextlib
import json
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import paho.mqtt.client as paho
from plant.broker import Broker

from adapters.ports import Exposure, FrameId, Outcome, Verdict
from adapters.sinks.mqtt import MqttRoad
from adapters.sinks.mqtt_link import MqttSettings

BASE = "works/site/hall/line3/cell"
MS = 1_000_000


class Plc:
    """Another client in a thread of its own, that notes what it hears and when."""

    def __init__(self, broker: Broker, topic: str = f"{BASE}/plc/#", **login: str) -> None:
        self.heard: list[tuple[str, bytes, bool, int]] = []
        """Topic, payload, retained, monotonic ns."""
        self._subscribed = False
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if broker.ca is not None:
            self.client.tls_set(str(broker.ca))
        if login:
            self.client.username_pw_set(**login)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: setattr(self, "_subscribed", True)
        self.client.on_message = lambda client, _, m: self.heard.append(
            (m.topic, m.payload, m.retain, time.monotonic_ns())
        )
        self.client.connect("127.0.0.1", broker.port, keepalive=60)
        self.client.loop_start()

    async def __aenter__(self) -> "Plc":
        await until(lambda: self._subscribed)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def verdicts(self, order: str = "<") -> list[tuple[int, ...]]:
        """All 13 fields, by a reading of the contract that is not ours."""
        return [
            struct.unpack(order + "BBBBIIIIHHHHI", payload)
            for topic, payload, *_ in self.heard
            if topic.endswith("/plc/verdict")
        ]

    def msg_nos(self) -> list[int]:
        return [fields[4] for fields in self.verdicts()]

    def says(self, topic: str, payload: bytes) -> None:
        self.client.publish(f"{BASE}/from/{topic}", payload, qos=1)


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - the other end is a thread or a process
            await asyncio.sleep(0.002)


def verdict(
    sequence: int = 0,
    outcome: Outcome = Outcome.OK,
    within_ms: int = 60_000,
    camera: str = "left",
    part: int = 0,
) -> Verdict:
    now = time.monotonic_ns()
    exposure = Exposure(
        FrameId("line3", camera, 17, sequence), now, time.time_ns(), now + within_ms * MS, part
    )
    return Verdict(exposure, outcome, None, 0.25, 0.5, now)


def road_to(broker: Broker | int, **more: Any) -> MqttRoad:
    port = broker if isinstance(broker, int) else broker.port
    client_id = f"clearline-{os.urandom(4).hex()}"
    settings = {"host": "127.0.0.1", "port": port, "base": BASE, "client_id": client_id} | more
    return MqttRoad(MqttSettings(**settings), {"left": 1, "right": 2})


@contextlib.asynccontextmanager
async def running(
    road: MqttRoad, hear: Callable[[Any], None] = lambda told: None, *, up: bool = True
) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(road.run(hear))
    try:
        if up:
            await until(lambda: road.connections == 1 or task.done())
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def states(plc: Plc) -> list[dict[str, Any]]:
    return [json.loads(m[1]) for m in plc.heard if m[0].endswith("/state")]
