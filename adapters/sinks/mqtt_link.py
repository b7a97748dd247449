"""One connection to an MQTT broker: paho's state machine, turned by our event loop.

Only `connect` blocks in paho (names, TCP, TLS), and it runs in a thread of its own: an executor
would be waited for at exit, and a look-up can hang for half a minute. Everything else happens on
the loop, on a socket that does not block. A connection that was lost is never used again, and
nothing of it survives: what the far end has not taken is not wanted any more.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog

import clearline
from adapters.errors import SinkError
from adapters.sinks.plc_messages import ByteOrder
from adapters.tls import Tls as Tls

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = structlog.get_logger()

KEEPALIVE_S = 1
"""Answers are asked for after so much silence: a frozen broker is noticed within twice that."""
TICK_S = 0.1
CONNECT_S = 2.0
PUBLISH_S = 0.5


@dataclass(frozen=True, slots=True)
class MqttSettings:
    host: str
    port: int
    base: str
    """Of all topics, without a slash at its end."""
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    byte_order: ByteOrder = "little"
    json: bool = False
    parts_from_plc: bool = False
    """The PLC names the parts, by the cameras' trigger counts; else they have the cameras' own."""

    @property
    def broker(self) -> str:
        return f"{self.host}:{self.port}"


def load_paho() -> Any:
    """Raises UsageError where it is not installed."""
    try:
        import paho.mqtt.client
    except ImportError as error:
        raise clearline.UsageError(
            "MQTT needs a package that is not installed",
            expected="the extra clearline[mqtt]",
        ) from error
    return paho.mqtt.client


class MqttLink:
    """Event loop only. `lost` is done, with the reason, once the connection is no more."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        will: tuple[str, bytes],
        subscriptions: list[tuple[str, int]],
        hear: Callable[[str, bytes], None],
    ) -> None:
        """`will`: topic and payload, retained. `subscriptions`: topics and QoS."""
        self._settings = settings
        self._subscriptions = subscriptions
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._awaited: tuple[int, asyncio.Future[None]] | None = None
        mqtt = load_paho()
        self._paho: paho.Client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            reconnect_on_failure=False,
        )
        self._paho.connect_timeout = CONNECT_S
        self._paho.will_set(*will, qos=1, retain=True)
        if settings.username is not None:
            self._paho.username_pw_set(settings.username, settings.password)

    @property
    def _socket(self) -> socket.socket | None:
        """None before it is connected and after it is closed. With TLS it is an SSLSocket."""
        return cast("socket.socket | None", self._paho.socket())  # paho allows for web sockets

    async def open(self) -> None:
        """Raises SinkError where the broker is not reached, or does not want us."""
        await self._connect()
        sock = self._socket
        if sock is None:
            raise SinkError("ended the connection at once", value=self._settings.broker)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._paho.on_connect = self._on_connect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_publish = self._on_publish
        self._paho.on_message = self._on_message
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_socket_close = lambda client, userdata, sock: self._unwatch(sock)
        self._loop.add_reader(sock, self._read)
        self._tick()
        await self._unless_lost(self._up, CONNECT_S)

    async def publish(
        self, topic: str, payload: bytes, *, qos: Literal[0, 1] = 0, retain: bool = False
    ) -> None:
        """Returns when the socket has it (QoS 0) or the broker (1). One call at a time.

        Raises SinkError where that takes over 0.5 s: the connection is of no use then.
        """
        told = self._paho.publish(topic, payload, qos, retain)
        self._watch()
        if told.rc != 0:
            raise SinkError("takes nothing", value=self._settings.broker)
        if told.is_published():
            return
        taken: asyncio.Future[None] = self._loop.create_future()
        self._awaited = told.mid, taken
        await self._unless_lost(taken, PUBLISH_S)

    def check(self) -> None:
        """Raises SinkError where it is lost."""
        if self.lost.done():
            raise SinkError(self.lost.result(), value=self._settings.broker)

    def disconnect(self) -> None:
        """In peace: the broker does not publish our will."""
        self._paho.disconnect()

    def close(self) -> None:
        """At once; what lies in buffers of ours is dropped."""
        self._paho.on_socket_close = None
        sock = self._socket
        if sock is not None:
            self._unwatch(sock)
            _drop(sock)
        self._lose("closed")

    async def _connect(self) -> None:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # it cannot be taken back from here on
        threading.Thread(target=self._connect_blocking, args=(done,), daemon=True).start()
        try:
            await asyncio.wrap_future(done)
        except (OSError, UnicodeError) as error:  # the latter: what cannot be a host's name
            raise SinkError(f"is not reached: {error}", value=self._settings.broker) from error
        except asyncio.CancelledError:
            done.add_done_callback(lambda _: self._drop_late())
            raise

    def _connect_blocking(self, done: Future[None]) -> None:
        """Thread. The files of certificates are read here too: they are renewed now and then."""
        try:
            tls = self._settings.tls
            if tls is not None:
                context = ssl.create_default_context(cafile=tls.ca)
                if tls.cert is not None:
                    context.load_cert_chain(tls.cert, tls.key)
                context.sslsocket_class = _ClosedOnFailure
                self._paho.tls_set_context(context)
            self._paho.connect(self._settings.host, self._settings.port, KEEPALIVE_S)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)
        else:
            done.set_result(None)

    def _drop_late(self) -> None:
        """Thread: connected after nobody wanted it any more."""
        sock = self._socket
        if sock is not None:
            _drop(sock)

    async def _unless_lost(self, what: "asyncio.Future[None]", seconds: float) -> None:
        await asyncio.wait((what, self.lost), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        if not what.done():
            raise SinkError(f"does not answer within {seconds} s", value=self._settings.broker)

    # Turned by the loop.

    def _read(self) -> None:
        sock = self._socket
        self._paho.loop_read()
        while isinstance(sock, ssl.SSLSocket) and sock is self._socket and sock.pending():
            self._paho.loop_read()  # what TLS has deciphered already wakes no selector
        self._watch()

    def _write(self) -> None:
        self._paho.loop_write()
        self._watch()

    def _tick(self) -> None:
        if self.lost.done():
            return
        self._paho.loop_misc()
        self._watch()
        self._loop.call_later(TICK_S, self._tick)

    def _watch(self) -> None:
        sock = self._socket
        if sock is None:
            return
        if self._paho.want_write():
            self._loop.add_writer(sock, self._write)
        else:
            self._loop.remove_writer(sock)

    def _unwatch(self, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    # Called by paho, out of the turns above.

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, more: Any) -> None:
        if code.is_failure:
            self._lose(f"refuses us: {code}")
            return
        self._paho.subscribe(self._subscriptions)

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: Any, more: Any) -> None:
        if any(code.is_failure for code in codes):
            log.warning("subscription refused", broker=self._settings.broker)
        self._up.set_result(None)

    def _on_publish(self, client: Any, userdata: Any, mid: int, code: Any, more: Any) -> None:
        if self._awaited is not None and self._awaited[0] == mid and not self._awaited[1].done():
            self._awaited[1].set_result(None)

    def _on_message(self, client: Any, userdata: Any, message: "paho.MQTTMessage") -> None:
        # Not called from here: were it to raise, paho would hand the message over for ever.
        self._loop.call_soon(self._hear, message.topic, bytes(message.payload))

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, code: Any, more: Any) -> None:
        self._lose(f"is gone: {code}")


class _ClosedOnFailure(ssl.SSLSocket):
    """paho leaves a socket open whose handshake failed."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _drop(sock: socket.socket) -> None:
    """Closes with a reset, so that the kernel sends nothing of what it still holds."""
    with contextlib.suppress(OSError):  # it may be reset already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
