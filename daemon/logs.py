"""The log: JSON lines on standard error under a service manager, readable on a terminal.

A thread of its own writes it: who reads it may stop, and that is never felt by who logs.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable

import structlog

from daemon.config import LogSettings

MOST_LINES = 4096
"""That wait to be written, beside as many at most that are being written."""
FLUSH_S = 2.0
"""At the exit, for a reader that may have stopped."""


def configure(settings: LogSettings) -> None:
    """For the whole process; what was logged is written when it ends."""
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    )
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    rendered = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    )
    # A descriptor of our own: a thread that is stuck in `sys.stderr` holds its lock, and the
    # interpreter aborts when it finds that at the exit.
    lines = LineWriter(
        os.dup(sys.stderr.fileno()), lambda lost: rendered.warning("log lines dropped", lines=lost)
    )
    atexit.register(lines.flush, FLUSH_S)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=lambda *_: lines,
    )


class LineWriter:
    """Takes lines at once, from any thread, and writes them in a thread of its own.

    Lines for which there is no room, and those that cannot be written, are dropped and counted; a
    line says how many, where they are missing.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str]) -> None:
        """`notice`: the line that says how many were dropped."""
        self._descriptor, self._notice = descriptor, notice
        self._turn = threading.Condition()
        self._lines: list[str] = []
        self._dropped = 0
        self._writing = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def msg(self, line: str) -> None:
        with self._turn:
            if len(self._lines) < MOST_LINES:
                self._lines.append(line)
                self._turn.notify_all()
            else:
                self._dropped += 1

    debug = info = warning = error = critical = msg  # structlog calls it by the level

    def flush(self, limit_s: float) -> None:
        """Returns when everything is written, or after `limit_s`."""
        with self._turn:
            self._turn.wait_for(lambda: not (self._lines or self._writing), limit_s)

    # --- log thread ---

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
                lost, self._dropped = self._dropped, 0  # all after these lines, which left no room
                self._writing = True
            lost += sum(not self._written(line) for line in lines)
            told = lost == 0 or self._written(self._notice(lost))
            with self._turn:
                self._dropped += 0 if told else lost
                self._writing = False
                self._turn.notify_all()

    def _written(self, line: str) -> bool:
        """In one piece where a pipe allows it: the worker writes to it as well."""
        rest = f"{line}\n".encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # nobody reads any longer, or the disk is full
            return False
        return True
