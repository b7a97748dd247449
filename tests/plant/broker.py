"""A real mosquitto of our own on a free loopback port, to be killed, frozen and started again."""

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

MOSQUITTO = "/usr/sbin/mosquitto"


class Broker:
    """Starts at once and keeps its port for life. Use as a context manager, or call `stop`."""

    def __init__(
        self, folder: Path, *, tls: bool = False, user: str | None = None, password: str = ""
    ) -> None:
        """`folder` takes its files. With `user`, nobody else is let in."""
        self.port = free_port()
        self.ca = folder / "ca.pem" if tls else None
        """What a client must trust; the certificate is good for 127.0.0.1 and localhost."""
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        lines = [
            "user root",  # where root runs the tests: else it gives up the right to our folder
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if user else 'true'}",
            "persistence false",
            f"log_dest file {self._log}",
        ]
        if self.ca is not None:
            key = folder / "key.pem"
            make_certificate(self.ca, key)
            lines += [f"certfile {self.ca}", f"keyfile {key}"]
        if user is not None:
            passwords = folder / "passwords"
            command = ["mosquitto_passwd", "-b", "-c", passwords, user, password]
            subprocess.run(command, check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        self._config.write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.01)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In good order; also from a freeze, and where it is gone already."""
        self.thaw()
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Its sockets stay open, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self._process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_certificate(certificate: Path, key: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", key, "-out", certificate,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
