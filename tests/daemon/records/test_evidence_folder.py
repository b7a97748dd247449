"""The evidence folder at the start: one line's alone and writable, or the line does not start."""

from pathlib import Path

import pytest

from daemon import wiring
from daemon.checking import check_line
from daemon.config import Configuration
from daemon.errors import StateError


def configured(bundle: Path, state: Path, folder: Path) -> Configuration:
    return Configuration(
        cameras={"left": {"url": "simulated:woven"}},  # type: ignore[dict-item]
        recipes={"default": {"bundle": bundle}},  # type: ignore[dict-item]
        state_dir=state,
        evidence={"folder": folder},  # type: ignore[arg-type]
    )


async def test_a_second_line_on_one_evidence_folder_is_refused_until_the_first_has_ended(
    tiny_files: Path, tmp_path: Path
) -> None:
    """Their frames may be called alike, and so would their pictures."""
    first = wiring.build(configured(tiny_files, tmp_path / "1", tmp_path / "p"), Path(), ())
    try:
        with pytest.raises(StateError) as refused:
            wiring.build(configured(tiny_files, tmp_path / "2", tmp_path / "p"), Path(), ())
        assert (refused.value.file, refused.value.key) == (tmp_path / "p", "evidence.folder")
    finally:
        await first.stop()
    again = wiring.build(configured(tiny_files, tmp_path / "2", tmp_path / "p"), Path(), ())
    await again.stop()


async def test_an_evidence_folder_that_cannot_be_made_is_refused_at_the_start(
    tiny_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    settings = configured(tiny_files, tmp_path / "state", tmp_path / "file/pictures")
    with pytest.raises(StateError, match=r"evidence\.folder cannot be written to"):
        wiring.build(settings, Path(), ())


def test_the_check_refuses_it_as_well(tiny_files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "line.toml"
    path.write_text(
        f'line = "a"\nstate_dir = "state"\n[evidence]\nfolder = "file/pictures"\n'
        f'[recipes.default]\nbundle = "{tiny_files}"\n[cameras.left]\nurl = "simulated:woven"\n'
    )
    with pytest.raises(StateError, match=r"evidence\.folder cannot be written to"):
        check_line(path)
