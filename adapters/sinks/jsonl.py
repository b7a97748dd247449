"""Events as JSON lines in a file: CloudEvents 1.0 in its JSON format, one a line, in order."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from typing import Any

import msgspec

from adapters.errors import SinkError
from adapters.ports import Event

_encode = msgspec.json.Encoder().encode


class JsonLinesSink:
    """Appends, and says an event is safe once the disk has it. Files are written in its thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jsonl")

    async def send(self, events: Sequence[Event]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._append, events)

    async def close(self) -> None:
        self._thread.shutdown()

    def _append(self, events: Sequence[Event]) -> None:
        lines = b"".join(_encode(cloud_event(event)) + b"\n" for event in events)
        try:
            with self._path.open("a+b", buffering=0) as file:
                whole = file.seek(0, os.SEEK_END)
                if not _ends_a_line(file, whole):  # a power cut tore the last one
                    lines = b"\n" + lines
                try:
                    _write_all(file, lines)
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)  # no torn line for what is tried again to follow
                    raise
        except OSError as error:
            raise SinkError(
                f"cannot be written: {error.strerror}",
                file=self._path,
                expected="a writable file with room",
            ) from error


def _ends_a_line(file: RawIOBase, size: int) -> bool:
    if size == 0:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _write_all(file: RawIOBase, content: bytes) -> None:
    """A disk that fills up takes a part first, and says so only when asked for the rest."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def cloud_event(event: Event) -> dict[str, Any]:
    seconds, ms = divmod(event.wall_ns // 1_000_000, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=1000 * ms)
    return {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "partitionkey": event.key,
        "datacontenttype": "application/json",
        "data": event.data,
    }
