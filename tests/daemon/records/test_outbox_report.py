"""`clearline outbox` says what is wrong with a state folder or a number, and makes no file."""

import errno
import os
from pathlib import Path

import pytest
from plant.events import defect

from daemon.cli import main
from daemon.errors import StateError
from daemon.records.outbox import Outbox
from daemon.records.outbox_report import NAME, letter, report, requeue
from daemon.watch.follow import _JsonLines
from daemon.watch.outbox_tail import OutboxTail


def one_waits(state: Path) -> None:
    outbox = Outbox(state / NAME, 1 << 28, 1.0, ["here"])
    assert outbox.store(defect(1)).result(60)
    outbox.close()


@pytest.mark.parametrize("name", ["a#b", "a?mode=rwc", "a%41b", "a b"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    state = tmp_path / name
    state.mkdir()
    one_waits(state)
    assert report(state)["waiting"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", ["9" * 20, "9" * 5000, "some", "-1", "٣", ""])
def test_what_cannot_be_the_number_of_a_dead_letter_is_refused(text: str) -> None:
    with pytest.raises(StateError, match="is no dead letter"):
        letter(text)


def test_the_largest_number_that_is_taken_is_none_of_a_dead_letter(tmp_path: Path) -> None:
    one_waits(tmp_path)
    with pytest.raises(StateError, match="is no dead letter"):
        requeue(tmp_path, letter("9" * 18))


def test_all_of_no_dead_letters_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_waits(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["outbox", str(tmp_path), "--requeue", "all", "--json"])
    told = capsys.readouterr().err
    assert ended.value.code == 0
    assert "no dead letters" in told
    assert "put back" not in told


def test_a_folder_that_one_may_not_enter_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    path = tmp_path / NAME
    for look in (
        lambda: report(tmp_path),
        lambda: requeue(tmp_path, None),
        lambda: OutboxTail(path).read(),
        lambda: _JsonLines(path).last(1, lambda _: True),
    ):
        with pytest.raises(StateError, match="cannot be read: Permission denied") as refused:
            look()
        assert refused.value.file == path
