"""SIGHUP: cameras go over to the recipes that the file names now, and nothing else ever changes."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from adapters.ports import Exposure
from daemon import config, running
from daemon.recipes import Recipes
from daemon.service import Service

FILE = """
site = "mill"
[recipes.foil]
bundle = "{bundle}"
[recipes.steel]
bundle = "{bundle}"
[cameras.left]
url = "simulated:woven"
recipe = "foil"
[cameras.right]
url = "simulated:grain"
recipe = "foil"
"""
LEFT_STEEL = ('recipe = "foil"', 'recipe = "steel"', 1)


class Line:
    """The recipes of a line whose file was read, and is read again."""

    def __init__(self, file: Path, bundle: Path) -> None:
        self.file, self.text = file, FILE.format(bundle=bundle)
        file.write_text(self.text)
        self.settings = config.load(file)
        first = {name: camera.recipe for name, camera in self.settings.cameras.items()}
        self.recipes = Recipes(self.settings.recipes, first, lambda _: None)

    def read_again(self) -> list[str]:
        """What was logged."""
        service = SimpleNamespace(parts=SimpleNamespace(recipes=self.recipes))
        with structlog.testing.capture_logs() as logs:
            running._read_again(self.file, self.settings, service)  # type: ignore[arg-type]
        return [entry["event"] for entry in logs]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "line.toml", tmp_path / "tiny.safetensors")


def judged(line: Line, exposure: Callable[..., Exposure]) -> list[object]:
    return [line.recipes.judging(exposure(0, camera)) for camera in ("left", "right")]


def test_a_camera_goes_over_to_the_recipe_that_its_file_names_now_and_back(
    line: Line, exposure: Callable[..., Exposure]
) -> None:
    line.file.write_text(line.text.replace(*LEFT_STEEL))
    assert line.read_again() == ["configuration read again"]
    assert judged(line, exposure) == ["steel", "foil"]
    line.file.write_text(line.text)
    assert line.read_again() == ["configuration read again"]
    assert judged(line, exposure) == ["foil", "foil"]


def test_a_file_that_says_the_same_changes_nothing(
    line: Line, exposure: Callable[..., Exposure]
) -> None:
    line.file.write_text(f"# a remark\n{line.text}")
    assert line.read_again() == ["configuration read again"]
    assert judged(line, exposure) == ["foil", "foil"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('site = "mill"', 'site = "other"'),
        ('site = "mill"', 'site = "mill"\ndrain_seconds = 9'),
        ("simulated:woven", "simulated:wood"),
        ("[cameras.right]", "deadline_ms = 30\n[cameras.right]"),
        ("[cameras.right]", "number = 7\n[cameras.right]"),
        ("[cameras.right]", "[cameras.third]"),
        ("[recipes.steel]", "[recipes.felt]\nbundle = 'b'\n[recipes.steel]"),
        ('[cameras.left]\nurl = "simulated:woven"', "[cameras.left]\nurl = 'simulated:grain'"),
        ("[cameras.left]", "[mqtt]\nhost = 'broker'\n[cameras.left]"),
    ],
)
def test_where_more_differs_nothing_changes_and_one_line_says_so(
    line: Line, exposure: Callable[..., Exposure], before: str, after: str
) -> None:
    text = line.text.replace(*LEFT_STEEL)
    assert before in text
    line.file.write_text(text.replace(before, after))
    (said,) = line.read_again()
    assert "more than cameras' recipes differs" in said
    assert judged(line, exposure) == ["foil", "foil"]


def test_cameras_in_another_order_have_other_numbers_and_are_not_taken_over(line: Line) -> None:
    """The PLC would take each for the other from the next start on."""
    head, left, right = line.text.partition("[cameras.left]")[0], *_cameras(line.text)
    line.file.write_text(head + right + "\n" + left)
    (said,) = line.read_again()
    assert "not taken over" in said


def _cameras(text: str) -> tuple[str, str]:
    left = text[text.index("[cameras.left]") : text.index("[cameras.right]")]
    return left, text[text.index("[cameras.right]") :]


@pytest.mark.parametrize(
    "content", [b"cameras = = 3", b"", b"\xff\xfe", None, FILE.replace("foil", "gold", 1).encode()],
    ids=["no TOML", "empty", "no text", "gone", "an unknown recipe"],
)  # fmt: skip
def test_a_broken_file_changes_nothing_and_one_line_says_so(
    line: Line, exposure: Callable[..., Exposure], content: bytes | None
) -> None:
    line.file.unlink() if content is None else line.file.write_bytes(content)
    assert line.read_again() == ["configuration not taken over"]
    assert judged(line, exposure) == ["foil", "foil"]


async def test_a_running_line_reads_its_file_at_a_sighup(
    tiny_files: Path,
    exposure: Callable[..., Exposure],
    until: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real line, but for its worker, which is not started."""
    line = Line(tiny_files.parent / "line.toml", tiny_files)
    seen: list[object] = []

    async def serve(service: Service) -> None:
        try:
            line.recipes = service.parts.recipes
            seen.append(judged(line, exposure))
            line.file.write_text(line.text.replace(*LEFT_STEEL))
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: judged(line, exposure) == ["steel", "foil"])  # type: ignore[misc]
            seen.append(judged(line, exposure))
        finally:
            await service.stop()

    monkeypatch.setattr(running, "serve", serve)
    async with asyncio.timeout(30):
        await running.live(line.settings, line.file, None, ())
    assert seen == [["foil", "foil"], ["steel", "foil"]]
