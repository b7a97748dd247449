"""Events as JSON lines in files: CloudEvents 1.0 in its JSON format, one a line, in order.

The file that grows is renamed before it would grow too large: `events.jsonl` becomes
`events.jsonl.1`, that becomes `events.jsonl.2`, and so on; the oldest is given up.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from itertools import accumulate
from pathlib import Path

import msgspec

from adapters.errors import SinkError
from adapters.jsonl_files import numbered
from adapters.ports import Event, Refusal
from adapters.sinks.cloud_event import structured

_encode = msgspec.json.Encoder().encode


class JsonLinesSink:
    """Appends, and says an event is safe once the disk has it. Files are written in its thread."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """`max_bytes`: of one file; only a single line that is larger exceeds it. `keep`: how many
        files there are besides the one that grows, at least 1."""
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jsonl")

    async def send(self, events: Sequence[Event]) -> Sequence[Refusal]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._append, events)
        return ()

    async def ready(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._append, ())

    async def close(self) -> None:
        self._thread.shutdown(wait=False)  # a disk that hangs does not hold the loop

    def _append(self, events: Sequence[Event]) -> None:
        lines = [_encode(structured(event)) + b"\n" for event in events]
        try:
            while lines:
                written = self._append_to_one_file(lines)
                if not written:
                    self._rotate()
                del lines[:written]
        except OSError as error:
            raise SinkError(
                f"cannot be written: {error.strerror}",
                file=self._path,
                expected="a writable file with room",
            ) from error

    def _append_to_one_file(self, lines: Sequence[bytes]) -> int:
        """How many lines are safe now; 0 where the file is full."""
        with self._path.open("a+b", buffering=0) as file:
            whole = file.seek(0, os.SEEK_END)
            if not _ends_a_line(file, whole):  # a power cut tore the last one
                whole += file.write(b"\n")
            fitting = sum(end <= self._max_bytes - whole for end in accumulate(map(len, lines)))
            if whole and not fitting:
                return 0
            taken = lines[: max(1, fitting)]
            try:
                _write_all(file, b"".join(taken))
                os.fsync(file.fileno())
                if whole == 0:
                    _sync_folder(self._path)  # else a power cut may take a new file's name
            except OSError:
                file.truncate(whole)  # no torn line for what is tried again to follow
                raise
        return len(taken)

    def _rotate(self) -> None:
        """A crash leaves one number free, where the next rotation goes on: no file is lost by it.

        Each name is on the disk before the next is moved: a power cut cannot swap their order.
        """
        numbers = range(1, self._keep)
        free = next((n for n in numbers if not numbered(self._path, n).exists()), self._keep)
        for number in range(free, 0, -1):
            numbered(self._path, number - 1).replace(numbered(self._path, number))
            _sync_folder(self._path)


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


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
