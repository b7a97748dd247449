"""The simulated camera: its pace, its losses and its end."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clearline
from adapters.ports import FrameFormat, FrameSource, Lease, Pixels, Reason, Shot
from adapters.sources.product import SimulatedProduct
from adapters.sources.simulated import SimulatedSource

PRODUCT = SimulatedProduct("grain", 64, 64, seed=1)


class Notebook:
    """An intake that writes down what it is told. `slots` is how often it lends."""

    def __init__(self, slots: int = 1000, then: Callable[[int], None] = lambda _: None) -> None:
        self.slots = slots
        self.then = then
        self.waits: set[bool] = set()
        self.seen: list[tuple[Shot, Pixels, int]] = []
        self.lost: list[tuple[Shot, Reason]] = []

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        self.waits.add(wait)
        if not self.slots:
            return None
        self.slots -= 1
        return Lease(self.slots, np.zeros(frame.shape, frame.dtype))

    def arrived(self, shot: Shot, lease: Lease) -> None:
        self.seen.append((shot, lease.pixels, time.monotonic_ns()))
        self.then(len(self.seen))

    def unseen(self, shot: Shot, reason: Reason) -> None:
        self.lost.append((shot, reason))


def test_it_delivers_the_parts_of_the_product_in_order() -> None:
    notebook = Notebook()
    source: FrameSource = SimulatedSource(PRODUCT, frames=5, first=40)
    source.stream(notebook)
    assert [shot.sequence for shot, _, _ in notebook.seen] == [40, 41, 42, 43, 44]
    assert [shot.part for shot, _, _ in notebook.seen] == [41, 42, 43, 44, 45]
    assert not notebook.lost
    for shot, pixels, _ in notebook.seen:
        assert np.array_equal(pixels, PRODUCT.part(shot.sequence).pixels)


def test_without_a_pace_it_waits_for_slots_and_ends_where_none_comes() -> None:
    notebook = Notebook(slots=3)
    SimulatedSource(PRODUCT).stream(notebook)
    assert notebook.waits == {True}
    assert len(notebook.seen) == 3
    assert not notebook.lost


def test_a_live_camera_keeps_its_pace() -> None:
    notebook = Notebook()
    before = time.monotonic_ns()
    SimulatedSource(PRODUCT, fps=100, frames=30).stream(notebook)
    assert notebook.waits == {False}
    shots = sorted(
        [shot for shot, _, _ in notebook.seen] + [shot for shot, _ in notebook.lost],
        key=lambda shot: shot.sequence,
    )
    exposed = np.array([shot.exposed_ns for shot in shots])
    assert (np.diff(exposed) == 10_000_000).all()
    assert exposed[0] > before
    late = np.array([arrived - shot.exposed_ns for shot, _, arrived in notebook.seen])
    assert (late >= 0).all()
    assert np.median(late) < 5_000_000


def test_a_live_camera_waits_for_nobody_and_reports_what_it_lost() -> None:
    notebook = Notebook(slots=4)
    SimulatedSource(PRODUCT, fps=200, frames=12).stream(notebook)
    seen = [shot.sequence for shot, _, _ in notebook.seen]
    lost = [shot.sequence for shot, _ in notebook.lost]
    assert len(seen) == 4
    assert sorted(seen + lost) == list(range(12))
    assert {reason for _, reason in notebook.lost} == {Reason.OVERLOAD}
    assert all(shot.part == shot.sequence + 1 for shot, _ in notebook.lost)


def test_a_hold_up_costs_frames_but_never_the_pace() -> None:
    def hold_up(count: int) -> None:
        if count == 3:
            time.sleep(0.2)

    notebook = Notebook(then=hold_up)
    SimulatedSource(PRODUCT, fps=100, frames=40).stream(notebook)
    assert len(notebook.seen) + len(notebook.lost) == 40
    assert len(notebook.lost) >= 15
    last, _, arrived = notebook.seen[-1]
    assert last.sequence == 39
    assert arrived - last.exposed_ns < 100_000_000


@pytest.mark.parametrize("fps", [0.0, 0.5])
def test_stop_from_another_thread_ends_an_endless_stream(fps: float) -> None:
    begun = threading.Event()
    source = SimulatedSource(PRODUCT, fps=fps)
    notebook = Notebook(slots=10**9, then=lambda _: begun.set())
    thread = threading.Thread(target=source.stream, args=(notebook,), daemon=True)
    thread.start()
    assert begun.wait(10)
    stopped = time.monotonic()
    source.stop()
    thread.join(1)
    assert not thread.is_alive()
    assert time.monotonic() - stopped < 0.5
    assert not notebook.lost


def test_a_stopped_camera_shows_nothing() -> None:
    for fps in (0.0, 50.0):
        notebook = Notebook()
        source = SimulatedSource(PRODUCT, fps=fps)
        source.stop()
        source.stream(notebook)
        assert not notebook.seen
        assert not notebook.lost


@pytest.mark.parametrize(
    ("key", "value"), [("fps", -1.0), ("fps", float("nan")), ("frames", -2), ("first", -1)]
)
def test_an_impossible_setting_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(clearline.UsageError, match=rf"{key} = .*expected") as refusal:
        SimulatedSource(PRODUCT, **{key: value})
    assert refusal.value.key == key
