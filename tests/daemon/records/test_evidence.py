"""Evidence: a defect's pictures, of the frame as it stood when it was judged, by a thread."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from adapters.evidence_files import Provenance, read_record
from adapters.image_files import read_image
from adapters.ports import Frame, FrameFormat
from daemon.records import evidence as module
from daemon.records import pictures
from daemon.records.evidence import WAITING, Evidence
from daemon.records.pictures import Keeping
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring
from model.judgement import Judgement
from model.picture import side_by_side
from model.regions import Region

FORMAT = FrameFormat(64, 80, 3, "uint8")
RESULT = Result(0.9, 0.5, Judgement.DEFECT, (Region(8, 8, 10, 6, 40, 0.9),))
BY = {"": Provenance("cloth", "b" * 64, "c" * 64, "d" * 64, "float32")}
PNG = Keeping("png", "png", 1 << 30, 24.0)
MakeFrame = Callable[..., Frame]
MakeEvidence = Callable[..., Evidence]


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create([FORMAT.nbytes * 2] * 2)
    pixels = np.random.default_rng(1).integers(0, 256, FORMAT.shape, np.uint8)
    ring.pixels(ring.slots[1].pixels, FORMAT)[:] = pixels
    ring.heat(ring.slots[1].heat, 64, 80)[:] = np.arange(16 * 20).reshape(16, 20) % 256
    yield ring
    ring.close()


@pytest.fixture
def start(ring: Ring, tmp_path: Path) -> Iterator[MakeEvidence]:
    started = []

    def make(keeping: Keeping = PNG, folder: Path | None = None) -> Evidence:
        folder = folder or tmp_path / "pictures"
        started.append(Evidence(folder, keeping, tmp_path / "aside", ring, BY))
        return started[-1]

    yield make
    for evidence in started:
        evidence.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is drawn before it is set."""
    go_on = threading.Event()

    def draw(*parts: object) -> object:
        go_on.wait(20)
        return side_by_side(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "side_by_side", draw)
    yield go_on
    go_on.set()


def kept(evidence: Evidence, frame: Frame) -> module.References | None:
    """Its slot has been given back."""
    references, given_back = evidence.keep(frame, RESULT, "cpu"), threading.Event()
    evidence.take(frame, given_back.set)
    assert given_back.wait(20)
    return references


def path_of(address: str | None) -> Path:
    assert address is not None
    return Path(unquote(urlsplit(address).path))


def test_the_stored_frame_is_the_one_that_was_judged_though_its_slot_is_used_again(
    ring: Ring, frame: MakeFrame, start: MakeEvidence, tmp_path: Path, held: threading.Event
) -> None:
    evidence, slot = start(), ring.slots[1]
    pixels, heat = ring.pixels(slot.pixels, FORMAT), ring.heat(slot.heat, 64, 80)
    as_judged, heat_then = pixels.copy(), heat.copy()
    references = kept(evidence, frame(12, slot=1, shape=FORMAT, epoch=7))
    pixels[:], heat[:] = 0, 0
    held.set()
    evidence.close()
    assert references is not None
    assert path_of(references.frame) == tmp_path / "pictures/left-7-00000012.frame.png"
    assert np.array_equal(read_image(path_of(references.frame)), as_judged)
    stored_heat = read_image(tmp_path / "pictures/left-7-00000012.heat.png")
    assert np.array_equal(stored_heat[:, :, 0], heat_then)
    seen = side_by_side(as_judged, heat_then, RESULT.regions)
    assert np.array_equal(read_image(path_of(references.image)), seen)


def test_a_frame_of_16_bits_is_lossless_also_where_jpeg_is_asked_for(
    ring: Ring, frame: MakeFrame, start: MakeEvidence
) -> None:
    deep = FrameFormat(64, 80, 1, "uint16")
    pixels = np.random.default_rng(2).integers(0, 65536, deep.shape, np.uint16)
    ring.pixels(ring.slots[1].pixels, deep)[:] = pixels
    evidence = start(Keeping("jpeg", "jpeg", 1 << 30, 24.0))
    references = kept(evidence, frame(0, slot=1, shape=deep))
    evidence.close()
    assert references is not None
    assert path_of(references.frame).suffix == ".png"
    assert np.array_equal(read_image(path_of(references.frame)), pixels)
    assert path_of(references.image).suffix == ".jpg"


def test_every_picture_says_of_which_frame_it_is_and_who_judged_it(
    frame: MakeFrame, ring: Ring, start: MakeEvidence, tmp_path: Path
) -> None:
    evidence = start(Keeping("png", "jpeg", 1 << 30, 24.0))
    judged = frame(3, slot=1, shape=FORMAT)
    kept(evidence, judged)
    pixels = ring.pixels(ring.slots[1].pixels, FORMAT)
    evidence.set_aside(frame(4, slot=1, shape=FORMAT), pixels)
    evidence.close()
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name.partition(".")[2] for f in files] == ["crop.jpg", "frame.png", "heat.png"]
    for file in files:
        record = read_record(file)
        assert (record.event_id, record.camera, record.sequence) == ("line/left/1/3", "left", 3)
        assert (record.score, record.threshold, record.device) == (0.9, 0.5, "cpu")
        assert record.exposed_ms == judged.exposure.wall_ns // 1_000_000
        assert record.regions[0].area == 40
        assert record.provenance == BY[""]
    aside = read_record(tmp_path / "aside/left-1-00000004.png")
    assert (aside.event_id, aside.score, aside.provenance) == ("line/left/1/4", None, BY[""])
    assert np.array_equal(read_image(tmp_path / "aside/left-1-00000004.png"), pixels)


@pytest.mark.parametrize(
    ("keeping", "image", "whole"),
    [
        (Keeping("none", "png", 1 << 30, 24.0), True, False),
        (Keeping("png", "none", 1 << 30, 24.0), False, True),
    ],
)
def test_only_what_is_kept_is_referred_to(
    keeping: Keeping, image: bool, whole: bool, frame: MakeFrame, start: MakeEvidence
) -> None:
    references = kept(start(keeping), frame(0, slot=1, shape=FORMAT))
    assert references is not None
    assert (references.image is not None, references.frame is not None) == (image, whole)


def test_where_nothing_is_kept_nothing_is_left_out(frame: MakeFrame, start: MakeEvidence) -> None:
    evidence = start(Keeping("none", "none", 1 << 30, 24.0))
    assert kept(evidence, frame(0, slot=1, shape=FORMAT)) is None
    assert evidence.left_out == 0


def test_close_writes_what_waits(frame: MakeFrame, start: MakeEvidence, tmp_path: Path) -> None:
    evidence = start()
    for k in range(5):
        kept(evidence, frame(k, slot=1, shape=FORMAT))
    evidence.close()
    assert len(list((tmp_path / "pictures").iterdir())) == 15


def test_pictures_that_the_thread_cannot_follow_are_left_out_and_counted(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path, held: threading.Event
) -> None:
    evidence = start()
    told = [kept(evidence, frame(k, slot=1, shape=FORMAT)) for k in range(WAITING + 5)]
    assert [k for k, references in enumerate(told) if references is None] == [64, 65, 66, 67, 68]
    assert evidence.left_out == 5
    held.set()
    evidence.close()
    assert len(list((tmp_path / "pictures").glob("*.frame.png"))) == WAITING


def test_a_frame_that_never_comes_to_be_taken_keeps_no_room_and_lends_its_picture_to_none(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path
) -> None:
    evidence = start()
    for k in range(WAITING + 5):
        assert evidence.keep(frame(k, slot=1, shape=FORMAT), RESULT, "cpu") is not None
    another = frame(1000, slot=1, shape=FORMAT)  # which is no defect
    given_back: list[str] = []
    evidence.take(another, lambda: given_back.append(threading.current_thread().name))
    assert given_back == ["MainThread"]  # at once
    assert evidence.left_out == WAITING + 5
    assert kept(evidence, frame(2000, slot=1, shape=FORMAT)) is not None
    evidence.close()
    assert {f.name[:15] for f in (tmp_path / "pictures").iterdir()} == {"left-1-00002000"}


def test_giving_way_deletes_the_oldest_and_keeps_none_for_a_while(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    start().close()
    folder.mkdir()
    for k in range(20):
        with (folder / f"left-1-{k:08d}.frame.png").open("wb") as file:
            file.truncate(2 << 20)
    evidence = start()
    evidence.give_way()
    assert kept(evidence, frame(50, slot=1, shape=FORMAT)) is None
    evidence.close()
    assert (evidence.given_up, evidence.left_out) == (8, 1)  # at least 16 MiB
    assert len(list(folder.iterdir())) == 12
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    later = start()
    later.give_way()
    assert kept(later, frame(51, slot=1, shape=FORMAT)) is not None


def test_what_waits_is_not_written_any_more_when_the_disk_is_short(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path, held: threading.Event
) -> None:
    evidence = start()
    for k in range(4):
        kept(evidence, frame(k, slot=1, shape=FORMAT))
    evidence.give_way()
    held.set()
    evidence.close()
    assert evidence.left_out >= 3  # the first may have been in hand
    assert len(list((tmp_path / "pictures").glob("*"))) <= 3


def test_the_folder_stays_within_its_bytes(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path
) -> None:
    evidence = start(Keeping("png", "png", 300_000, 24.0))
    for k in range(40):
        kept(evidence, frame(k, slot=1, shape=FORMAT))
    evidence.close()
    files = list((tmp_path / "pictures").iterdir())
    assert sum(f.stat().st_size for f in files) <= 300_000
    assert {f.name[:15] for f in files} == {
        f"left-1-{k:08d}" for k in range(40 - len(files) // 3, 40)
    }
    assert len(files) % 3 == 0
    assert evidence.left_out == 0


def test_a_folder_that_cannot_be_written_is_counted_and_costs_nothing_else(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    evidence = start(folder=tmp_path / "a file")
    for k in range(WAITING * 2):
        kept(evidence, frame(k, slot=1, shape=FORMAT))
    evidence.close()
    assert evidence.left_out == WAITING * 2


def test_a_picture_that_cannot_be_drawn_ends_neither_the_thread_nor_the_stop(
    frame: MakeFrame, start: MakeEvidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[object] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    fails = [True]

    def draw(*parts: object) -> object:
        if fails.pop() if fails else False:
            raise MemoryError
        return side_by_side(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "side_by_side", draw)
    evidence = start()
    for k in range(3):
        kept(evidence, frame(k, slot=1, shape=FORMAT))
    evidence.close()
    assert not faults
    assert evidence.left_out == 1
    assert len(list((tmp_path / "pictures").glob("*.crop.png"))) == 2
