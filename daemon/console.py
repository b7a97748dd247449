"""How commands speak: progress and remarks on standard error, results on standard output."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

remarks = Console(stderr=True)
results = Console()


def print_json(result: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    sys.stdout.flush()


def print_table(title: str, rows: Mapping[str, Any]) -> None:
    """Names and values; an absent value is a dash."""
    # As Text: in a str [brackets] would be markup, also those of a path or a broker's answer.
    heading = Text(title, "table.title")
    table = Table(title=heading, show_header=False, box=None, title_justify="left", padding=(0, 1))
    for name, value in rows.items():
        table.add_row(Text(name), Text(_shown(value)))
    results.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def working(on: str) -> Iterator[None]:
    """For some seconds in which a command that says nothing looks as if it hung."""
    with remarks.status(on) if remarks.is_terminal else nullcontext():
        yield


@contextmanager
def progress() -> Iterator["Bars"]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=remarks, disable=not remarks.is_terminal) as bars:
        yield Bars(bars)


class Bars:
    """One bar for each kind of work, in the order in which it begins."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def watch(self, what: str, done: int, of: int) -> None:
        self._shown.update(self._task(what, of), completed=done, total=of)

    def note(self, what: str, of: int, text: str) -> None:
        self._shown.update(self._task(what, of), note=text)

    def end(self, what: str) -> None:
        """It took fewer steps than it might have."""
        if what in self._tasks:
            self._shown.stop_task(self._tasks[what])

    def remark(self, text: str) -> None:
        self._shown.console.print(text)

    def _task(self, what: str, of: int) -> TaskID:
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=of, note="")
        return self._tasks[what]


class TrainingBars:
    """A training's monitor (`training.two_stage.Monitor`): a bar a stage, the last check beside."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._steps = 1

    def step(self, stage: int, step: int, steps: int, loss: float) -> None:
        self._steps = steps
        if stage == 2 and step == 1:
            self._bars.end("stage 1")
        self._bars.watch(f"stage {stage}", step, steps)

    def checked(self, stage: int, step: int, score: float, slots_used: int) -> None:
        said = f"held-out L1 {-score:.4f}" if stage == 1 else f"artificial F1 {score:.3f}"
        said += f", {slots_used} slots in use"
        self._bars.note(f"stage {stage}", self._steps, said)
        if not remarks.is_terminal:  # no bar moves there: a line a check
            self._bars.remark(f"stage {stage}, step {step} of {self._steps}: {said}")

    def resumed(self, stage: int, step: int) -> None:
        self._bars.remark(f"going on from the checkpoint: stage {stage}, step {step}")
