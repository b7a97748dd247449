"""Evidence: a picture of a defect, drawn from the frame and its heat map as they stood then."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from adapters.image_files import read_image
from adapters.ports import Frame, FrameFormat
from daemon.records import evidence as module
from daemon.records.evidence import WAITING, Evidence
from daemon.worker.ring import Ring
from model.picture import side_by_side
from model.regions import Region

FORMAT = FrameFormat(64, 80, 3, "uint8")
REGION = Region(8, 8, 10, 6, 40, 0.9)
MakeFrame = Callable[..., Frame]


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([FORMAT.nbytes * 2] * 2)
    pixels = np.random.default_rng(1).integers(0, 256, FORMAT.shape, np.uint8)
    ring.pixels(ring.slots[1].pixels, FORMAT)[:] = pixels
    ring.heat(ring.slots[1].heat, 64, 80)[:] = np.arange(16 * 20).reshape(16, 20) % 256
    yield ring
    ring.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is drawn before it is set."""
    go_on = threading.Event()

    def draw(*parts: object) -> object:
        go_on.wait(20)
        return side_by_side(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "side_by_side", draw)
    return go_on


def test_the_picture_is_of_the_moment_though_the_slot_is_used_again(
    ring: Ring, frame: MakeFrame, tmp_path: Path, held: threading.Event
) -> None:
    evidence = Evidence(tmp_path / "a new folder", tmp_path / "aside", ring)
    slot = ring.slots[1]
    pixels, heat = ring.pixels(slot.pixels, FORMAT), ring.heat(slot.heat, 64, 80)
    expected = side_by_side(pixels.copy(), heat.copy(), [REGION])
    ref = evidence.keep(frame(12, slot=1, shape=FORMAT, epoch=7), [REGION])
    pixels[:], heat[:] = 0, 0
    held.set()
    evidence.close()
    assert ref is not None
    path = Path(unquote(urlsplit(ref).path))
    assert path == tmp_path / "a new folder/left-7-00000012.png"
    assert np.array_equal(read_image(path), expected)


def test_close_writes_what_waits(ring: Ring, frame: MakeFrame, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, tmp_path / "aside", ring)
    refs = [evidence.keep(frame(k, slot=1, shape=FORMAT), [REGION]) for k in range(5)]
    evidence.close()
    assert len(set(refs)) == len(list(tmp_path.iterdir())) == 5


def test_pictures_that_the_thread_cannot_follow_are_left_out_and_counted(
    ring: Ring, frame: MakeFrame, tmp_path: Path, held: threading.Event
) -> None:
    evidence = Evidence(tmp_path, tmp_path / "aside", ring)
    refs = [evidence.keep(frame(k, slot=1, shape=FORMAT), []) for k in range(WAITING + 5)]
    kept = [ref for ref in refs if ref is not None]
    assert WAITING <= len(kept) <= WAITING + 1  # the thread may have taken one in hand
    assert evidence.left_out == len(refs) - len(kept)
    held.set()
    evidence.close()
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_a_folder_that_cannot_be_written_is_counted_and_the_next_one_goes_on(
    ring: Ring, frame: MakeFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    folder.touch()
    evidence = Evidence(folder, folder / "aside", ring)
    evidence.keep(frame(0, slot=1, shape=FORMAT), [])
    evidence.close()
    assert evidence.left_out == 1


def test_a_picture_that_cannot_be_drawn_ends_neither_the_thread_nor_the_stop(
    ring: Ring, frame: MakeFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dead thread and a full queue, `close` would wait for ever."""
    faults: list[object] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    fails = [True]

    def draw(*parts: object) -> object:
        if fails.pop() if fails else False:
            raise MemoryError
        return side_by_side(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "side_by_side", draw)
    evidence = Evidence(tmp_path, tmp_path / "aside", ring)
    for k in range(3):
        evidence.keep(frame(k, slot=1, shape=FORMAT), [])
    evidence.close()
    assert not faults
    assert evidence.left_out == 1
    assert len(list(tmp_path.iterdir())) == 2
