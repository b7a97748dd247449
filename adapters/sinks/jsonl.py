"""Events as JSON lines in a file: CloudEvents 1.0 in its JSON format, one a line, in order."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
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
            with self._path.open("ab", buffering=0) as file:
                whole = file.tell()
                try:
                    file.write(lines)
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)  # no torn line for what is tried again to follow
                    raise
        except OSError as error:
            raise SinkError(
                f"cannot be written: {error.strerror}", file=self._path,
                expected="a writable file with room",
            ) from error  # fmt: skip


def cloud_event(event: Event) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event.wall_ns / 1e9, UTC)
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
