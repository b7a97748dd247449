"""`clearline events`: what the plant is told, from Kafka, the outbox or files, as it comes.

A follower outlives whatever it reads from: it says what is wrong, waits, and goes on.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from rich.text import Text

import clearline
from adapters.jsonl_files import JsonLinesReader
from adapters.kafka_reader import KafkaReader
from daemon import config, console, edges
from daemon.config import Configuration
from daemon.errors import ConfigurationError
from daemon.records.outbox_report import NAME, require_file
from daemon.watch.event_text import text_of
from daemon.watch.outbox_tail import OutboxTail

Source = Literal["kafka", "outbox", "jsonl"]
Type = Literal["defect", "camera", "line"]
TYPES: tuple[Type, ...] = ("defect", "camera", "line")
POLL_S = 0.2
SAY_S = 30.0
"""Between two remarks that the same thing is still wrong."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; None: any."""

    type: Type | None = None
    camera: str | None = None
    """Events of the line that are about a camera as well."""
    kind: str | None = None
    """As the data has it; `defect` for defects."""

    def takes(self, event: dict[str, Any]) -> bool:
        data = event.get("data")
        told = data if isinstance(data, dict) else {}
        return (
            (self.type is None or event.get("type") == _topic(self.type))
            and (self.camera is None or told.get("camera") == self.camera)
            and (self.kind is None or told.get("kind", told.get("verdict")) == self.kind)
        )


class Tail(Protocol):
    """Where events are read from. What cannot be read of them comes as an error in its place."""

    def last(
        self, most: int, takes: Callable[[dict[str, Any]], bool]
    ) -> Iterable[dict[str, Any] | clearline.Error]:
        """What is there. Raises clearline.Error where nothing can be read."""

    def read(self) -> Iterable[dict[str, Any] | clearline.Error]:
        """What came since. Raises clearline.Error where nothing can be read."""

    def close(self) -> None: ...


def show_events(
    path: Path, source: Source | None, *, follow: bool, last: int, where: Filter, as_json: bool
) -> None:
    """`path`: the line's configuration. `source`: Kafka where the line has it, else the outbox.
    `last`: so many of what is there; then, with `follow`, what comes, until Ctrl-C.

    Raises clearline.Error where nothing can be read; with `follow` only where it never could be.
    """
    settings = config.load(path)
    if where.camera is not None and where.camera not in settings.cameras:
        raise ConfigurationError(
            "is no camera of this line", file=path, key="camera", value=where.camera,
            expected=" or ".join(settings.cameras),
        )  # fmt: skip
    try:
        with closing(_tail(settings, path, source, where)) as tail:
            _show(tail, follow, last, where, _print_json if as_json else _print_text)
    except KeyboardInterrupt:
        if not follow:
            raise
    except (BrokenPipeError, SystemExit):  # `| head` has enough; the latter is rich's word for it
        with suppress(SystemExit):
            console.results.on_broken_pipe()


def _show(
    tail: Tail,
    follow: bool,
    last: int,
    where: Filter,
    show: Callable[[dict[str, Any]], None],
) -> None:
    begun, trouble = False, _Trouble()
    while True:
        try:
            found = list(tail.read() if begun else tail.last(last, where.takes))
            begun = True
        except clearline.Error as error:
            if not follow:
                raise
            trouble.say(error)
            found = []
        for told in found:
            if isinstance(told, clearline.Error):
                _remark(told)
            elif where.takes(told):
                show(told)
        sys.stdout.flush()
        if not follow:
            return
        if not found:
            time.sleep(POLL_S)


class _Trouble:
    """What is wrong is said when it begins, and now and then while it lasts."""

    def __init__(self) -> None:
        self._said, self._said_s = "", 0.0

    def say(self, error: clearline.Error) -> None:
        now_s = time.monotonic()
        if str(error) != self._said or now_s - self._said_s > SAY_S:
            self._said, self._said_s = str(error), now_s
            _remark(error)


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._path, self._reader = path, JsonLinesReader(path)
        self.read = self._reader.read
        self.close = self._reader.close

    def last(
        self, most: int, takes: Callable[[dict[str, Any]], bool]
    ) -> Iterable[dict[str, Any] | clearline.Error]:
        require_file(self._path, "a line's file of events")
        lines = self._reader.lines()
        wanted = (e for e in lines if isinstance(e, clearline.Error) or takes(e))
        return deque(wanted, maxlen=most)


def _tail(settings: Configuration, file: Path, source: Source | None, where: Filter) -> Tail:
    match source or ("kafka" if settings.kafka.bootstrap else "outbox"):
        case "kafka":
            kafka = edges.kafka_settings(settings)
            if kafka is None:
                raise ConfigurationError(
                    "names no broker", file=file, key="kafka.bootstrap", expected="HOST:PORT"
                )
            kafka = replace(kafka, client_id=f"{kafka.client_id}-events")
            return KafkaReader(kafka, [_topic(t) for t in TYPES if where.type in (None, t)])
        case "jsonl":
            jsonl = edges.jsonl_path(settings)
            if jsonl is None:
                raise ConfigurationError("is not set", file=file, key="events.jsonl")
            return _JsonLines(jsonl)
        case _:
            return OutboxTail(settings.state_dir / NAME)


def _topic(type_: Type) -> str:
    return f"clearline.{type_}.v1"


def _print_json(event: dict[str, Any]) -> None:
    sys.stdout.write(_encode(event).decode() + "\n")


def _print_text(event: dict[str, Any]) -> None:
    told = text_of(event)
    line = Text.assemble(f"{told.when} {told.who:<10} ", (f"{told.kind:<11}", told.colour))
    line.append(f" {told.words}".rstrip())
    console.results.print(line, soft_wrap=True)


def _remark(error: clearline.Error) -> None:
    console.remarks.print(Text(f"clearline: {error}", "yellow"), soft_wrap=True)
