"""The log is written by a thread of its own: who reads it may stop, and no line waits for that."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.logs import MOST_LINES, LineWriter

LOGS = """
import asyncio, sys
import structlog
from daemon import logs
from daemon.config import LogSettings

logs.configure(LogSettings(format={format!r}, level={level!r}))
log = structlog.get_logger()
"""
STOPPED = """
async def main():
    for number in range(20_000):
        log.warning("plc road away", number=number)
        await asyncio.sleep(0)
    print("went on", flush=True)

asyncio.run(main())
sys.exit(3)
"""


def _started(program: str, log_format: str = "json", level: str = "info") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOGS.format(format=log_format, level=level) + program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _ran(program: str, log_format: str = "json", level: str = "info") -> tuple[str, str]:
    with _started(program, log_format, level) as process:
        return process.communicate(timeout=60)


def test_a_reader_that_stops_holds_up_neither_the_loop_nor_the_exit() -> None:
    with _started(STOPPED) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "went on\n"
            began = time.monotonic()
            assert process.wait(timeout=20) == 3
            assert time.monotonic() - began < 10
        finally:
            process.kill()


def test_a_reader_that_goes_on_is_told_how_many_lines_it_missed_and_where() -> None:
    with _started(STOPPED.replace("sys.exit(3)", "")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "went on\n"
        _, said = process.communicate(timeout=60)
    lines = [json.loads(line) for line in said.splitlines()]
    expected = 0
    for line in lines:
        if line["event"] == "log lines dropped":
            assert line["level"] == "warning"
            expected += line["lines"]
        else:
            assert line["number"] == expected
            expected += 1
    assert expected == 20_000
    assert len(lines) < 3 * MOST_LINES


TRACEBACK = re.compile(r"Traceback .*:\n|  File .*, in <module>\n|ValueError: unforeseen\n")


@pytest.mark.parametrize("ending", ["", "sys.exit(2)", "raise ValueError('unforeseen')"])
def test_all_that_was_logged_is_written_at_the_exit(ending: str) -> None:
    _, said = _ran(f"for number in range(3000): log.info('line', number=number)\n{ending}")
    said = TRACEBACK.sub("", said)  # the interpreter writes it at once, between any two pieces
    told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [line["number"] for line in told] == list(range(3000))


def test_lines_are_json_with_level_and_time_or_readable_text() -> None:
    program = "log.error('disk full', left=3)\nlog.info('not at this level')"
    (line,) = _ran(program, "json", "error")[1].splitlines()
    told = json.loads(line)
    assert told.pop("timestamp").endswith("Z")
    assert told == {"event": "disk full", "left": 3, "level": "error"}
    (text,) = _ran(program, "text", "error")[1].splitlines()
    assert "disk full" in text
    assert not text.startswith("{")


def test_an_exception_comes_with_its_traceback() -> None:
    program = "try: 1 / 0\nexcept ZeroDivisionError: log.exception('failed')"
    told = json.loads(_ran(program)[1])
    assert told["level"] == "error"
    assert "ZeroDivisionError: division by zero" in told["exception"]


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    yield opened
    os.close(opened)


def test_what_is_no_text_is_written_all_the_same(tmp_path: Path, descriptor: int) -> None:
    lines = LineWriter(descriptor, str)
    lines.info("Größe \udcff")
    lines.flush(20)
    assert (tmp_path / "log").read_text() == "Größe \\udcff\n"


def test_lines_that_cannot_be_written_are_told_once_they_can(
    tmp_path: Path, descriptor: int
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    lines = LineWriter(writes, lambda lost: f"{lost} lost")
    for _ in range(2):
        lines.info("nobody reads")
        lines.flush(20)
    os.dup2(descriptor, writes)
    lines.info("somebody reads")
    lines.flush(20)
    os.close(writes)
    assert (tmp_path / "log").read_text() == "somebody reads\n2 lost\n"
