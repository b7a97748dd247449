"""The road to the PLC over MQTT: what cannot be said now is never said.

Everything runs on the event loop. One task sends, one message at a time; the only things that wait
are the newest beat, the newest state and a bounded line of verdicts. Nothing is sent again.
"""

import asyncio
import dataclasses
import functools
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec
import structlog

from adapters.errors import MessageError, SinkError
from adapters.ports import Beat, LineTold, MachineState, Outcome, PartTold, Reason, Verdict
from adapters.sinks import plc_messages
from adapters.sinks.mqtt_link import MqttLink, MqttSettings, load_paho

log = structlog.get_logger()

WAITING = 1024
PARTS = 4096
"""Whose names are remembered: far more than fit between trigger and gate."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

_encode = msgspec.json.Encoder().encode
_OFFLINE = _encode({"online": False})


class MqttRoad:
    """A PlcRoad. Its counts are of this run: for the page and the metrics."""

    def __init__(self, settings: MqttSettings, cameras: Mapping[str, int]) -> None:
        """`cameras`: the number of each, 1 to 255. UsageError where MQTT is not installed."""
        load_paho()
        self._settings = settings
        self._cameras = cameras
        self._plc = f"{settings.base}/plc"
        self._part = f"{settings.base}/from/part"
        self._line = f"{settings.base}/from/line"
        self._state_topic = f"{settings.base}/state"
        self.connected = False
        """Whether what is told now leaves."""
        self._up_since = math.inf
        self._wake = asyncio.Event()
        self._verdicts: deque[tuple[Verdict, int]] = deque()
        self._msg_no = Counter[str]()
        self._overrun = False
        self._error = False
        self._part_ids: OrderedDict[int, int] = OrderedDict()
        """The PLC's name of a part by its trigger count."""
        self._beat: Beat | None = None
        self._state = _encode({"online": True})
        self._state_said = b""
        self._up = _Seldom("info", "plc road up")
        self._away = _Seldom("warning", "plc road away")
        self._refused = _Seldom("warning", "plc message refused")
        self.overruns = 0
        """Verdicts that a newer one pushed out."""
        self.unsent = 0
        """Verdicts told while the connection was away, or lost with it."""
        self.turned_late = 0
        self.malformed = 0
        """Messages of the PLC that were not understood."""
        self.connections = 0

    @property
    def reconnections(self) -> int:
        return max(0, self.connections - 1)

    # Told by the line; none of these waits.

    def tell(self, verdict: Verdict) -> None:
        camera = verdict.exposure.id.camera
        self._msg_no[camera] += 1
        if not self.connected:
            self.unsent += 1
            return
        if len(self._verdicts) == WAITING:
            self._verdicts.popleft()
            self.overruns += 1
            self._overrun = True
        self._verdicts.append((verdict, self._msg_no[camera]))
        self._wake.set()

    def msg_nos(self) -> dict[str, int]:
        return dict(self._msg_no)

    def beat(self, beat: Beat) -> None:
        self._error = beat.state is MachineState.ERROR
        if self.connected:
            self._beat = beat
            self._wake.set()

    def state(self, state: Mapping[str, Any]) -> None:
        self._state = _encode({"online": True, **state})
        self._wake.set()

    # Sent by one task.

    async def run(self, hear: Callable[[PartTold | LineTold], None]) -> None:
        pause = FIRST_PAUSE_S
        while True:
            self._up_since = math.inf
            try:
                await self._one_connection(hear)
            except SinkError as error:
                self._away.say(problem=str(error), retry_s=pause)
            except Exception:
                log.exception("plc road failed, and nobody foresaw why")
            if time.monotonic() - self._up_since > LONGEST_PAUSE_S:  # no row of failures
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    async def _one_connection(self, hear: Callable[[PartTold | LineTold], None]) -> None:
        """Raises SinkError when it is lost, or does not come about."""
        link = MqttLink(
            self._settings,
            will=(self._state_topic, _OFFLINE),
            subscriptions=[(self._part, 1), (self._line, 0)],
            hear=functools.partial(self._heard, hear),
        )
        try:
            await link.open()
            self.connected = True
            self._up_since = time.monotonic()
            self._state_said = b""
            self.connections += 1
            self._up.say(broker=self._settings.broker, connections=self.connections)
            try:
                await self._send(link)
            except asyncio.CancelledError:
                await self._say_goodbye(link)
                raise
        finally:
            self.connected = False
            self._beat = None
            self.unsent += len(self._verdicts)
            self._verdicts.clear()
            link.close()

    async def _send(self, link: MqttLink) -> NoReturn:
        link.lost.add_done_callback(lambda _: self._wake.set())
        while True:
            self._wake.clear()
            link.check()
            await self._send_what_waits(link)
            await self._wake.wait()

    async def _send_what_waits(self, link: MqttLink) -> None:
        while True:
            if self._beat is not None:
                beat, self._beat = self._beat, None
                await link.publish(
                    f"{self._plc}/beat", plc_messages.beat(beat, self._settings.byte_order)
                )
            elif self._state_said != self._state:
                self._state_said = self._state
                await link.publish(self._state_topic, self._state, qos=1, retain=True)
            elif self._verdicts:
                await self._send_verdict(link, *self._verdicts.popleft())
            else:
                return
            await asyncio.sleep(0)  # the line has its turn between any two messages

    async def _send_verdict(self, link: MqttLink, verdict: Verdict, msg_no: int) -> None:
        camera = verdict.exposure.id.camera
        now_ns = time.monotonic_ns()
        if self._settings.parts_from_plc:
            # A part that the PLC did not tell has no name: a wrong one would be worse.
            trigger = verdict.exposure.part
            part = self._part_ids.get(trigger, 0) if trigger else 0
            named = dataclasses.replace(verdict.exposure, part=part)
            verdict = dataclasses.replace(verdict, exposure=named)
        if verdict.outcome is Outcome.OK and now_ns > verdict.exposure.deadline_ns:
            verdict = dataclasses.replace(verdict, outcome=Outcome.UNINSPECTED, reason=Reason.LATE)
            self.turned_late += 1
        flags = plc_messages.ONLINE
        if self._error and verdict.outcome is Outcome.UNINSPECTED:  # else somebody did judge it
            flags |= plc_messages.ERROR
        if self._overrun:
            flags |= plc_messages.OVERRUN
            self._overrun = False
        payload = plc_messages.verdict(
            verdict,
            camera=self._cameras[camera],
            msg_no=msg_no,
            flags=flags,
            now_ns=now_ns,
            order=self._settings.byte_order,
        )
        try:
            await link.publish(f"{self._plc}/verdict", payload)
        except SinkError:
            self.unsent += 1
            raise
        if self._settings.json:
            text = plc_messages.verdict_json(verdict, msg_no=msg_no, now_ns=now_ns)
            await link.publish(f"{self._settings.base}/json/{camera}", text)

    async def _say_goodbye(self, link: MqttLink) -> None:
        """Bounded by the time that a publish has. Unsaid, the broker says our will instead."""
        try:
            await self._send_what_waits(link)  # the last verdicts, and who is `shutdown`
            await link.publish(self._state_topic, _OFFLINE, qos=1, retain=True)
        except SinkError as error:
            self._away.say(problem=str(error))
        else:
            link.disconnect()

    def _heard(
        self, hear: Callable[[PartTold | LineTold], None], topic: str, payload: bytes
    ) -> None:
        told: PartTold | LineTold
        try:
            if topic == self._part:
                told = plc_messages.part_told(payload, self._settings.byte_order)
            else:
                told = plc_messages.line_told(payload)
        except MessageError as error:
            self.malformed += 1
            self._refused.say(topic=topic, problem=str(error), in_all=self.malformed)
            return
        if isinstance(told, PartTold) and self._settings.parts_from_plc:
            self._part_ids[told.triggers] = told.part
            while len(self._part_ids) > PARTS:
                self._part_ids.popitem(last=False)
        hear(told)


class _Seldom:
    """Logs what happens over and over at most once a second."""

    def __init__(self, level: str, event: str) -> None:
        self._level = level
        self._event = event
        self._last = -math.inf

    def say(self, **what: Any) -> None:
        now = time.monotonic()
        if now - self._last >= 1:
            self._last = now
            getattr(log, self._level)(self._event, **what)
