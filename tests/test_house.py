"""What holds for the project as a whole: names, locks, the shipped example, who imports what."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

import adapters
import daemon
import model
import training
from daemon.config import Configuration

ROOT = Path(__file__).parent.parent
PACKAGES = (adapters, daemon, model, training)
LOCKS = ("requirements.lock", "requirements-dev.lock", "uv.lock.txt")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_our_top_level_names_belong_to_this_distribution_only(package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    others = [
        d.name for d in distributions()
        if d.name != "clearline" and any(f.parts[0] in (name, f"{name}.py") for f in d.files or ())
    ]  # fmt: skip
    assert others == []
    assert Path(package.__file__).parent.parent == ROOT  # type: ignore[attr-defined]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_version_and_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / "deploy" / lock).read_text()
    assert "://" not in text
    packages = re.findall(r"^([A-Za-z0-9._-]+)==[^ ]+ .*\\\n((?:    --hash=.*\n?)+)", text, re.M)
    names = re.findall(r"^[A-Za-z0-9]\S+", text, re.M)
    assert len(packages) == len(names) > 0


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, asked in (
        ("requirements.lock", [*project["dependencies"], *extras["build"]]),
        ("requirements-dev.lock", [*project["dependencies"], *extras["build"], *extras["dev"]]),
    ):
        locked = set(
            re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "deploy" / lock).read_text(), re.M)
        )
        assert set(asked) <= locked


def test_the_shipped_example_equals_the_defaults() -> None:
    example = tomllib.loads((ROOT / "deploy" / "clearline.example.toml").read_text())
    named = {
        "cameras": {"left": {"url": example["cameras"]["left"]["url"]}},
        "recipes": {"default": {"bundle": example["recipes"]["default"]["bundle"]}},
    }
    assert Configuration(**example) == Configuration(**named)


def test_the_shipped_example_shows_every_key() -> None:
    text = (ROOT / "deploy" / "clearline.example.toml").read_text()
    shown = set(re.findall(r"^(?:# )?([a-z_]+) = ", text, re.M))
    schema = Configuration.model_json_schema()
    keys = {
        key
        for section in (schema, *schema["$defs"].values())
        for key, value in section["properties"].items()
        if value.get("type") not in ("object", None) or "anyOf" in value
    }
    assert keys == shown


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nfrom daemon.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'cv2', 'scipy'} & set(sys.modules), 'heavy'\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for command in ("demo", "train", "calibrate", "evaluate", "inspect", "run", "check"):
        assert f" {command} " in ended.stdout
