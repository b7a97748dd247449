"""The PLC and its conveyor at the other end of a real broker, in real time.

One thread of paho's hears; the conveyor moves in another one, so that it goes on whatever the test
waits for. Messages are taken at the moment at which they came.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

import paho.mqtt.client as paho
from plant.broker import Broker
from plant.conveyor import Conveyor, Tally
from plant.plc import Gate, Settings

TICK_S = 0.002


class Cell:
    def __init__(
        self,
        broker: Broker,
        base: str,
        settings: Settings,
        *,
        began_ns: int,
        period_ns: int,
        travel_ns: int,
        truth: Callable[[int], bool],
    ) -> None:
        """As `Conveyor`; the clock is CLOCK_MONOTONIC."""
        self.gate = Gate(settings)
        self.conveyor = Conveyor(self.gate, began_ns, period_ns, travel_ns, truth)
        self._heard: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.verdicts: deque[tuple[int, bytes]] = deque(maxlen=100_000)
        """When each came (monotonic ns), and its bytes."""
        self._over = threading.Event()
        self._moving = threading.Thread(target=self._move, name="conveyor")
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{base}/plc/#")
        self._client.on_message = lambda _, __, m: self._heard.put((time.monotonic_ns(), m.payload))
        self._client.connect("127.0.0.1", broker.port, keepalive=2)

    def __enter__(self) -> "Cell":
        self._client.loop_start()
        self._moving.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._moving.join()
        self._client.disconnect()
        self._client.loop_stop()

    def accepted(self) -> int:
        return self.gate.accepted

    def newest_part(self) -> int:
        """That passed the cameras."""
        return self.gate.parts

    def passed_since(self, part: int) -> bool:
        """One that came by the cameras after this one was let through."""
        return any(opened for k, opened in dict(self.conveyor.decisions).items() if k > part)

    def tally(self) -> Tally:
        return self.conveyor.tally()

    def _move(self) -> None:
        while not self._over.wait(TICK_S):
            while not self._heard.empty():
                at_ns, payload = self._heard.get()
                if payload[:1] == b"\x11":
                    self.verdicts.append((at_ns, payload))
                self.conveyor.message(at_ns, payload)
            self.conveyor.advance(time.monotonic_ns())
