"""Evidence and its threads: the loop copies nothing, a hung disk holds neither slot nor stop."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from adapters.evidence_files import Provenance
from adapters.ports import Frame, FrameFormat
from daemon.records import evidence as module
from daemon.records import pictures
from daemon.records.evidence import Evidence
from daemon.records.pictures import Keeping
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring
from model.judgement import Judgement

FORMAT = FrameFormat(64, 80, 1, "uint8")
RESULT = Result(0.9, 0.5, Judgement.DEFECT, ())
BY = {"": Provenance("cloth", "b" * 64, "c" * 64, "d" * 64, "float32")}
JPEG_CROPS = Keeping("png", "jpeg", 1 << 30, 24.0)
LIMIT_S = 20.0
MakeFrame = Callable[..., Frame]


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([FORMAT.nbytes] * 2)
    yield ring
    ring.close()


@pytest.fixture
def evidence(ring: Ring, tmp_path: Path) -> Iterator[Evidence]:
    evidence = Evidence(tmp_path / "pictures", JPEG_CROPS, tmp_path / "aside", ring, BY)
    yield evidence
    evidence.close()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The disk answers nothing before it is set, and with an error then."""
    go_on = threading.Event()

    def write(path: Path, *_: object) -> None:
        go_on.wait(LIMIT_S)
        raise OSError(5, f"no disk for {path.name}")

    monkeypatch.setattr(pictures, "write_described", write)
    yield go_on
    go_on.set()


def keep(evidence: Evidence, frame: Frame) -> threading.Event:
    """Is set when the slot is given back."""
    given_back = threading.Event()
    assert evidence.keep(frame, RESULT, "cpu") is not None
    evidence.take(frame, given_back.set)
    return given_back


def test_the_loop_copies_nothing_and_a_slot_is_given_back_only_when_it_is_copied(
    ring: Ring, evidence: Evidence, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, look, by = threading.Event(), ring.pixels, []

    def pixels(*where: Any) -> Any:
        by.append(threading.current_thread().name)
        go_on.wait(LIMIT_S)
        return look(*where)

    monkeypatch.setattr(ring, "pixels", pixels)
    given_back = keep(evidence, frame(0, slot=1, shape=FORMAT))  # returns, though no copy is made
    assert not given_back.is_set()
    go_on.set()
    assert given_back.wait(LIMIT_S)
    assert by == ["evidence-copy"]


def test_a_hung_disk_holds_no_slot(
    evidence: Evidence, frame: MakeFrame, hung: threading.Event
) -> None:
    for k in range(8):
        assert keep(evidence, frame(k, slot=1, shape=FORMAT)).wait(LIMIT_S)


def test_a_copy_that_fails_gives_its_slot_back_and_is_counted(
    ring: Ring, evidence: Evidence, frame: MakeFrame, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(*_: object) -> np.ndarray:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(ring, "heat", fails)
        assert keep(evidence, frame(0, slot=1, shape=FORMAT)).wait(LIMIT_S)
    assert evidence.left_out == 1  # and its room is free again
    assert keep(evidence, frame(1, slot=1, shape=FORMAT)).wait(LIMIT_S)
    evidence.close()
    assert evidence.left_out == 1
    assert {p.name[:15] for p in (tmp_path / "pictures").iterdir()} == {"left-1-00000001"}


def test_the_stop_does_not_wait_for_a_hung_disk_and_counts_what_it_leaves(
    evidence: Evidence, frame: MakeFrame, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    for k in range(5):
        assert keep(evidence, frame(k, slot=1, shape=FORMAT)).wait(LIMIT_S)
    began = time.monotonic()
    with capture_logs() as logs:
        evidence.close()
    assert time.monotonic() - began < LIMIT_S / 2
    assert evidence.left_out == 5
    assert [(said["event"], said["frames"]) for said in logs] == [
        ("evidence left out at the stop", 5)
    ]
    monkeypatch.setattr(module, "CLOSE_SECONDS", LIMIT_S)
    with capture_logs() as logs:
        hung.set()
        evidence.close()  # the thread has ended, after what it had in hand
    assert ["left-1-00000000" in said["problem"] for said in logs] == [True]
    assert evidence.left_out == 5


def test_a_crop_that_cannot_be_written_does_not_keep_the_frame_from_it(
    evidence: Evidence, frame: MakeFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(*_: object) -> np.ndarray:
        return np.zeros((2, 65_536, 1), np.uint8)

    monkeypatch.setattr(pictures, "side_by_side", wide)
    with capture_logs() as logs:
        keep(evidence, frame(3, slot=1, shape=FORMAT))
        evidence.close()
    files = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert files == ["left-1-00000003.frame.png", "left-1-00000003.heat.png"]
    assert evidence.left_out == 1
    assert ["65536 x 2 pixels" in said["problem"] for said in logs] == [True]


def test_failures_are_told_once_and_then_now_and_again_with_their_number(
    evidence: Evidence, frame: MakeFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").touch()  # no folder, so that every picture fails
    with capture_logs() as logs:
        for k in range(20):
            assert keep(evidence, frame(k, slot=1, shape=FORMAT)).wait(LIMIT_S)
        evidence.close()
    assert evidence.left_out == 20
    assert [said["failures"] for said in logs] == [1]
    monkeypatch.setattr(evidence, "_quiet_until", time.monotonic())  # ten seconds later
    with capture_logs() as logs:
        for _ in range(2):
            evidence._warn(OSError("no room"))
    assert [said["failures"] for said in logs] == [20]
