"""The capped folder: the oldest goes, all pictures of a frame together, and nothing foreign."""

import os
import time
from pathlib import Path

import pytest

from daemon.records.folder_limit import FolderLimit

DAY = 24.0


def store(folder: Path, sequence: int, size: int = 100, hours_ago: float = 0.0) -> list[Path]:
    """Two pictures of one frame."""
    files = [folder / f"left-1-{sequence:08d}.{end}" for end in ("frame.png", "heat.png")]
    at = time.time() - hours_ago * 3600
    for file in files:
        file.write_bytes(b"x" * size)
        os.utime(file, (at, at))
    return files


def frames_in(folder: Path) -> list[int]:
    return sorted({int(p.name.split("-")[2][:8]) for p in folder.glob("left-*")})


def test_at_a_restart_what_is_too_much_goes_the_oldest_first(tmp_path: Path) -> None:
    for sequence, hours_ago in ((3, 1.0), (1, 9.0), (2, 5.0), (0, 2.0)):
        store(tmp_path, sequence, hours_ago=hours_ago)
    limit = FolderLimit(tmp_path, 500, DAY)
    limit.look()
    assert frames_in(tmp_path) == [0, 3]
    assert limit.bytes == 400


def test_at_a_restart_what_is_too_old_goes(tmp_path: Path) -> None:
    store(tmp_path, 0, hours_ago=25.0)
    store(tmp_path, 1, hours_ago=23.0)
    FolderLimit(tmp_path, 1 << 20, DAY).look()
    assert frames_in(tmp_path) == [1]


def test_pictures_grow_old_without_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, 0)
    limit = FolderLimit(tmp_path, 1 << 20, DAY)
    limit.look()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    limit.enforce()
    assert frames_in(tmp_path) == []
    assert limit.bytes == 0


def test_all_pictures_of_a_frame_go_together(tmp_path: Path) -> None:
    limit = FolderLimit(tmp_path, 350, DAY)
    for sequence in range(3):
        for file in store(tmp_path, sequence):
            limit.wrote(file)
        limit.enforce()
    assert frames_in(tmp_path) == [2]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_ours_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    foreign = [
        "notes.txt", "claim", "holiday.png", "left-1-12.png", "left-1-00000001.frame.png.bak",
        "left-1-00000001.tiff", ".hidden.part", ".left-1-00000009.frame.png",
    ]  # fmt: skip
    for name in foreign:
        (tmp_path / name).write_bytes(b"x" * 10_000)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "left-1-00000002.frame.png").mkdir()
    store(tmp_path, 5)
    limit = FolderLimit(tmp_path, 150, DAY)
    limit.look()
    limit.give_up()
    assert {p.name for p in tmp_path.iterdir()} == {*foreign, "left-1-00000002.frame.png"}
    assert limit.bytes == 0


def test_files_that_someone_else_deleted_cost_nothing(tmp_path: Path) -> None:
    limit = FolderLimit(tmp_path, 500, DAY)
    for sequence in range(3):
        for file in store(tmp_path, sequence):
            limit.wrote(file)
            file.unlink()
            limit.wrote(file)
    assert limit.bytes == 600
    for file in store(tmp_path, 3):
        limit.wrote(file)
    limit.enforce()
    assert frames_in(tmp_path) == [3]


def test_a_picture_that_is_written_again_is_counted_once(tmp_path: Path) -> None:
    limit = FolderLimit(tmp_path, 1000, DAY)
    for size in (100, 300):
        for file in store(tmp_path, 1, size):
            limit.wrote(file)
    assert limit.bytes == 600


def test_giving_up_frees_a_tenth_and_at_least_some_mebibytes(tmp_path: Path) -> None:
    for sequence in range(400):
        with (tmp_path / f"left-1-{sequence:08d}.frame.png").open("wb") as file:
            file.truncate(1 << 20)
        os.utime(file.name, (time.time() - 1000 + sequence,) * 2)
    limit = FolderLimit(tmp_path, 1 << 40, DAY)
    limit.look()
    assert limit.give_up() == 40
    assert frames_in(tmp_path)[0] == 40
    for _ in range(40):
        limit.give_up()
    assert frames_in(tmp_path) == []
    assert limit.give_up() == 0


def test_one_file_that_cannot_be_deleted_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence in range(3):
        store(tmp_path, sequence, hours_ago=30.0 - sequence)
    limit = FolderLimit(tmp_path, 1 << 20, DAY)
    unlink = Path.unlink

    def stubborn(path: Path, missing_ok: bool = False) -> None:
        if "00000000" in path.name:
            raise PermissionError(1, "not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stubborn)
    with pytest.raises(PermissionError):
        limit.look()
    limit.enforce()
    assert frames_in(tmp_path) == [0]


def test_a_folder_that_is_not_there_yet_is_an_empty_one(tmp_path: Path) -> None:
    limit = FolderLimit(tmp_path / "none", 1, DAY)
    limit.look()
    assert limit.bytes == 0
