"""The played-back camera: what it shows, at which pace, and how it ends."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from adapters.errors import SourceError
from adapters.image_files import write_image
from adapters.ports import FrameFormat, Lease, Pixels, Reason, Shot
from adapters.sources.replay import ReplaySource


class Notebook:
    """An intake that writes down what it is told. It lends `slots` times."""

    def __init__(self, slots: int = 1000, then: Callable[[int], None] = lambda _: None) -> None:
        self.slots, self.then = slots, then
        self.waits: list[bool] = []
        self.seen: list[tuple[Shot, Pixels]] = []
        self.lost: list[tuple[Shot, Reason]] = []

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        self.waits.append(wait)
        if len(self.waits) > self.slots:
            return None
        return Lease(0, np.zeros(frame.shape, frame.dtype))

    def arrived(self, shot: Shot, lease: Lease) -> None:
        self.seen.append((shot, lease.pixels))
        self.then(len(self.seen))

    def unseen(self, shot: Shot, reason: Reason) -> None:
        self.lost.append((shot, reason))

    def shown(self) -> list[int]:
        """Each picture by the level it is filled with."""
        return [int(pixels.flat[0]) for _, pixels in self.seen]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures, each filled with ten times its number."""
    for k in range(6):
        write_image(tmp_path / "lot" / f"{k}.png", np.full((64, 80, 1), 10 * k, np.uint8))
    return tmp_path / "lot"


def play(path: Path, notebook: Notebook, fps: float = 0.0) -> None:
    ReplaySource(path, fps=fps).stream(notebook)


def test_a_folder_is_shown_in_name_order_as_fast_as_slots_are_lent(folder: Path) -> None:
    notebook = Notebook()
    before = time.monotonic_ns()
    play(folder, notebook)
    assert notebook.shown() == [0, 10, 20, 30, 40, 50]
    assert [shot.sequence for shot, _ in notebook.seen] == list(range(6))
    assert set(notebook.waits) == {True}
    exposed = [shot.exposed_ns for shot, _ in notebook.seen]
    assert exposed == sorted(exposed)
    assert before <= exposed[0]
    assert exposed[-1] <= time.monotonic_ns()


def test_one_image_is_one_frame(folder: Path) -> None:
    notebook = Notebook()
    play(folder / "3.png", notebook)
    assert notebook.shown() == [30]


def test_a_list_names_images_relative_to_itself_in_its_own_order(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text(f"lot/4.png\n\n{folder / '1.png'}\nlot/4.png\n")
    notebook = Notebook()
    play(listed, notebook)
    assert notebook.shown() == [40, 10, 40]


def test_a_video_is_shown_frame_by_frame_in_colour(tmp_path: Path) -> None:
    path = tmp_path / "line.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    assert video.isOpened()
    for k in range(5):
        video.write(np.full((64, 96, 3), (10, 20, 40 * k), np.uint8))
    video.release()
    notebook = Notebook()
    play(path, notebook)
    assert len(notebook.seen) == 5
    for k, (_, pixels) in enumerate(notebook.seen):
        assert pixels.shape == (64, 96, 3)
        assert np.abs(pixels.mean(axis=(0, 1)) - (40 * k, 20, 10)).max() < 6


def test_it_keeps_the_pace_it_was_given(folder: Path) -> None:
    notebook = Notebook()
    before = time.monotonic_ns()
    play(folder, notebook, fps=50)
    exposed = np.array([shot.exposed_ns for shot, _ in notebook.seen])
    assert (np.diff(exposed) == 20_000_000).all()
    assert exposed[0] >= before
    assert time.monotonic_ns() - before >= 5 * 20_000_000
    assert set(notebook.waits) == {False}


def test_a_loop_begins_again_and_goes_on_counting(folder: Path) -> None:
    source = ReplaySource(folder, loop=True)
    notebook = Notebook(then=lambda seen: source.stop() if seen == 15 else None)
    source.stream(notebook)
    assert notebook.shown() == [k % 6 * 10 for k in range(15)]
    assert [shot.sequence for shot, _ in notebook.seen] == list(range(15))


@pytest.mark.parametrize("fps", [0.0, 200.0])
def test_a_corrupt_image_is_an_exposure_unseen_and_the_rest_goes_on(
    folder: Path, fps: float
) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    notebook = Notebook()
    play(folder, notebook, fps=fps)
    assert notebook.shown() == [0, 10, 30, 40, 50]
    assert [(shot.sequence, reason) for shot, reason in notebook.lost] == [(2, Reason.CORRUPT)]


def test_a_live_camera_without_slots_reports_what_it_lost(folder: Path) -> None:
    notebook = Notebook(slots=2)
    play(folder, notebook, fps=200)
    assert notebook.shown() == [0, 10]
    assert [(shot.sequence, reason) for shot, reason in notebook.lost] == [
        (k, Reason.OVERLOAD) for k in (2, 3, 4, 5)
    ]


def test_a_waiting_camera_ends_when_its_intake_closes_and_invents_no_exposure(
    folder: Path,
) -> None:
    """No slot after waiting for one means that the line stops: nothing was exposed."""
    notebook = Notebook(slots=2)
    play(folder, notebook)
    assert notebook.shown() == [0, 10]
    assert notebook.lost == []


@pytest.mark.parametrize("fps", [0.0, 0.5])
def test_stop_from_another_thread_ends_an_endless_playback(folder: Path, fps: float) -> None:
    begun = threading.Event()
    source = ReplaySource(folder, fps=fps, loop=True)
    notebook = Notebook(slots=10**9, then=lambda _: begun.set())
    thread = threading.Thread(target=source.stream, args=(notebook,), daemon=True)
    thread.start()
    assert begun.wait(10)
    source.stop()
    thread.join(2)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["none", "none.png", "none.txt", "none.avi", "notes.md"])
def test_a_path_that_cannot_be_played_is_a_source_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.md").write_text("not a video")
    notebook = Notebook()
    with pytest.raises(SourceError) as refused:
        play(tmp_path / name, notebook)
    assert str(tmp_path / name) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not notebook.seen


def test_a_folder_without_images_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no image"):
        play(tmp_path, Notebook())


def test_a_list_without_images_is_a_source_error_too(tmp_path: Path) -> None:
    """Else a loop over it would spin for ever, and no stop would end it."""
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(SourceError):
        play(tmp_path / "list.txt", Notebook())
