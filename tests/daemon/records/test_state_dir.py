"""Folders that are one line's alone: claimed, or refused with the key that named them."""

from pathlib import Path

import pytest

from daemon.errors import StateError
from daemon.records import state_dir


def test_a_folder_is_claimed_once_and_again_when_it_was_given_back(tmp_path: Path) -> None:
    with state_dir.claim(tmp_path, "evidence.folder"):
        with pytest.raises(StateError, match="is in use by another line") as refused:
            state_dir.claim(tmp_path, "evidence.folder")
        assert refused.value.key == "evidence.folder"
    state_dir.claim(tmp_path).close()


def test_a_claim_that_cannot_be_made_is_not_taken_for_another_lines(tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    with pytest.raises(StateError, match="cannot be claimed: Is a directory"):
        state_dir.claim(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be written to: Not a directory") as refused:
        state_dir.make(tmp_path / "file/pictures", "evidence.folder")
    assert refused.value.key == "evidence.folder"
