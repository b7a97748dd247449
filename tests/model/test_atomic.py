"""A file is the old one or the new one: on a full disk, in an unwritable folder, after kill -9."""

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model import atomic
from model.bundle import Bundle
from model.bundle import load as load_bundle
from model.calibration import beside
from model.calibration import load as load_calibration
from model.errors import SaveError

DISK = 256 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("CI must be root: only root can mount the small disk")
        pytest.skip("only root can mount the small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def _refusal(path: Path, content: bytes) -> str:
    with pytest.raises(SaveError) as caught:
        atomic.write(path, content)
    line = str(caught.value)
    assert line.startswith(f"{path}: could not be saved: ")
    assert line.endswith("; expected a writable folder with room")
    assert "\n" not in line
    return line


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"old", b"", b"new" * 100_000):
        atomic.write(path, content)
        assert _contents(tmp_path) == {"a": content}
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_content_is_on_the_disk_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a", []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve(), path.exists()))

    monkeypatch.setattr(os, "fsync", watch)
    atomic.write(path, b"content")
    (file, named_before), (folder, named_after) = synced
    assert (file.parent, folder) == (tmp_path, tmp_path)
    assert (named_before, named_after) == (False, True)


# Where writing fails


def test_on_a_full_disk_the_old_file_survives(disk: Path) -> None:
    path = disk / "a"
    atomic.write(path, b"old" * 1000)
    assert "No space left" in _refusal(path, b"n" * (DISK + 1))
    assert _contents(disk) == {"a": b"old" * 1000}, "nothing half-written stays either"
    atomic.write(path, b"new")
    assert _contents(disk) == {"a": b"new"}


def _fill(disk: Path) -> None:
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"f" * free.f_bavail * free.f_frsize)
    assert os.statvfs(disk).f_bavail == 0


def test_on_a_full_disk_bundle_and_calibration_survive(
    disk: Path, tiny_files: Path, tiny_bundle: Bundle
) -> None:
    small = replace(
        tiny_bundle,
        weights={},
        report={"which": "old"},
        golden_pixels=tiny_bundle.golden_pixels[:1],
    )
    calibration = load_calibration(beside(tiny_files))
    small.save(disk / "b.safetensors")
    calibration.save(disk / "c.json")
    _fill(disk)
    with pytest.raises(SaveError, match=r"b\.safetensors: could not be saved: No space left"):
        tiny_bundle.save(disk / "b.safetensors")
    with pytest.raises(SaveError, match=r"c\.json: could not be saved: No space left"):
        calibration.model_copy(update={"camera": "new"}).save(disk / "c.json")
    assert load_bundle(disk / "b.safetensors").report == {"which": "old"}
    assert load_calibration(disk / "c.json") == calibration


def test_on_a_read_only_disk_the_old_file_survives(disk: Path) -> None:
    atomic.write(disk / "a", b"old")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "Read-only file system" in _refusal(disk / "a", b"new")
    assert _contents(disk) == {"a": b"old"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory" in _refusal(tmp_path / "file" / "a", b"new")
    assert "No such file" in _refusal(tmp_path / "none" / "a", b"new")


def test_a_folder_of_that_name_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_bytes(b"old")
    assert "Is a directory" in _refusal(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert _contents(tmp_path / "a") == {"inside": b"old"}


# kill -9

SIZE = 1 << 20

SAVES_FOR_EVER = """
import itertools, os, sys
from pathlib import Path
from model import atomic
for version in itertools.count():
    os.write(1, b".")
    atomic.write(Path(sys.argv[1]), bytes([version % 256]) * int(sys.argv[2]))
"""

STOPS_AT_A_STEP = """
import os, sys
from pathlib import Path
from model import atomic
left = int(sys.argv[3])
def stop(event, arguments):
    global left
    if event == "open" or event.startswith("os."):
        left -= 1
        if left == 0:
            os.write(1, b".")
            os.read(0, 1)
sys.addaudithook(stop)
atomic.write(Path(sys.argv[1]), b"n" * int(sys.argv[2]))
"""


def _start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_killed_at_any_step_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """The process stops itself at one system call after the other, and is killed there."""
    path = tmp_path / "a"
    old, new = b"o" * SIZE, b"n" * SIZE
    found = []
    for step in itertools.count(1):
        path.write_bytes(old)
        process = _start(STOPS_AT_A_STEP, path, SIZE, step)
        assert process.stdout is not None
        reached = process.stdout.read(1) == b"."
        _kill(process)
        content = path.read_bytes()
        assert content in (old, new), f"neither, after step {step}"
        found.append(content == new)
        if not reached:
            assert process.returncode == 0
            break
    assert len(found) > 3
    assert found == sorted(found), "first the old file, then the new"
    assert found[0] is False
    assert found[-1] is True


def test_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    dice = random.Random(9)
    for _ in range(6):
        process = _start(SAVES_FOR_EVER, path, SIZE)
        assert process.stdout is not None
        for _ in range(dice.randint(2, 12)):
            assert process.stdout.read(1) == b"."
        _kill(process)
        content = path.read_bytes()
        assert len(content) == SIZE
        assert len(set(content)) == 1


def test_who_reads_while_it_is_saved_reads_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    process = _start(SAVES_FOR_EVER, path, SIZE)
    assert process.stdout is not None
    assert process.stdout.read(2)
    versions: set[int] = set()
    while not path.exists():
        assert process.poll() is None
    while len(versions) < 8:
        content = path.read_bytes()
        assert len(content) == SIZE
        assert len(set(content)) == 1
        versions.add(content[0])
        process.stdout.read(1)
    _kill(process)
