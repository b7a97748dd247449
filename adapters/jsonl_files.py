"""The files that the sink of JSON lines writes, for those who look on: in order, while they grow.

Read from one thread, in any process. Lines come at least once: what the sink could not bring to the
disk and took back may have been read already, and comes again when it does.
"""

import os
from collections.abc import Iterator
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

import clearline

_SHOWN = 60  # bytes of a line that is no event
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class EventFileError(clearline.UsageError):
    """A file of events is there and cannot be read."""


class EventLineError(clearline.Error):
    """A line is no event: a power cut tore it, or it is another's. Those behind it are read."""


Line = dict[str, Any] | EventLineError
"""An event in CloudEvents' JSON format, or why the line is none."""


def numbered(path: Path, number: int) -> Path:
    """The file itself is number 0; the higher the older."""
    return path.with_name(f"{path.name}.{number}") if number else path


class JsonLinesReader:
    """From the oldest file to the newest, and on. Renaming does not disturb it: the file that is
    being read stays open. One that was given up before its turn came is passed over."""

    def __init__(self, path: Path) -> None:
        """`path`: of the file that grows; it need not be there yet."""
        self._path = path
        self._file: FileIO | None = None
        self._at = 0
        """Where the first line begins that was not yet told; bytes."""

    def read(self) -> list[Line]:
        """All that is new since the last call. Raises EventFileError."""
        return list(self.lines())

    def lines(self) -> Iterator[Line]:
        """The same, one by one: for files that are large. What is not taken comes next time."""
        try:
            while True:
                grows = self._grows()  # asked before reading: a file that does not is then whole
                if self._file is not None:
                    yield from self._rest(self._file, whole=not grows)
                if grows or not self._go_on():
                    return
        except OSError as error:
            raise EventFileError(
                f"cannot be read: {error.strerror}", file=self._path, expected="a readable file"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _grows(self) -> bool:
        """The file being read is the one that the sink writes to."""
        try:
            return self._file is not None and _is(self._file, self._path.stat())
        except FileNotFoundError:
            return False  # just renamed

    def _rest(self, file: FileIO, *, whole: bool) -> Iterator[Line]:
        """`whole`: nothing more will come, also where the last line has no end."""
        # What did not reach the disk was taken back: it is written anew, from here.
        self._at = min(self._at, os.fstat(file.fileno()).st_size)
        with open(file.fileno(), "rb", closefd=False) as lines:  # buffers nothing from before
            lines.seek(self._at)
            for line in lines:
                if not (whole or line.endswith(b"\n")):
                    return
                self._at += len(line)
                yield self._parsed(line)

    def _parsed(self, line: bytes) -> Line:
        try:
            return _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return EventLineError(
                "is no event",
                file=self._path,
                value=line[:_SHOWN],
                expected="an object of JSON in each line",
            )

    def _go_on(self) -> bool:
        """Opens the file that is next newer, the oldest where none was read yet."""
        newer: FileIO | None = None
        for file in self._newest_to_oldest():
            if self._file is not None and _is(self._file, os.fstat(file.fileno())):
                file.close()
                break
            if newer is not None:
                newer.close()
            newer = file
        if newer is None:
            return False
        self.close()
        self._file, self._at = newer, 0
        return True

    def _newest_to_oldest(self) -> Iterator[FileIO]:
        """Files move the same way meanwhile: one may come twice, and none is passed over. A
        rotation under way leaves one number free."""
        missing = 0
        for number in count():
            try:
                yield numbered(self._path, number).open("rb", buffering=0)
                missing = 0
            except FileNotFoundError:
                missing += 1
                if missing == 2:
                    return


def _is(file: FileIO, found: os.stat_result) -> bool:
    return os.path.samestat(os.fstat(file.fileno()), found)
