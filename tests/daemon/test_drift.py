"""DRIFT: what has not drifted is not told, what has is told once, and once when it is back."""

import math
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from adapters.ports import Exposure, Outcome, Reason, Verdict
from daemon import drift
from daemon.drift import WINDOW, Drift, DriftWatch
from model.calibration import Histogram

Scores = NDArray[np.float64]

KINDS = {
    "normal": stats.norm(0.2, 0.03),
    "skewed": stats.gamma(4, scale=0.02),
    "heavy": stats.lognorm(0.5, scale=0.1),
    "two lots": stats.beta(0.4, 0.4, loc=0.1, scale=0.2),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def histogram(scores: Scores) -> Histogram:
    """As training.calibrate fills it."""
    counts, edges = np.histogram(scores, bins=32)
    return Histogram(low=float(edges[0]), high=float(edges[-1]), counts=tuple(counts.tolist()))


@pytest.fixture
def tell(exposure: Callable[..., Exposure]) -> Callable[..., None]:
    verdicts = {
        camera: Verdict(exposure(0, camera), Outcome.OK, None, None, 0.5, 0, "foil")
        for camera in ("left", "right")
    }

    def say(watch: DriftWatch, scores: Iterable[float], camera: str = "left", **other: Any) -> None:
        for score in scores:
            watch.tell(replace(verdicts[camera], score=score, **other))

    return say


Tell = Callable[..., None]


@every_kind
def test_in_two_thousand_looks_at_the_same_distribution_nothing_is_told(
    tell: Tell, kind: Any
) -> None:
    random = np.random.default_rng(1)
    for images in (99, 299, 999, 2995, 20_000):
        watch = DriftWatch({"foil": histogram(kind.rvs(images, random_state=random))})
        for new in kind.rvs((100, 200), random_state=random):
            tell(watch, new)
            assert watch.look() == []


@every_kind
@pytest.mark.parametrize("images", [150, 1500])
def test_false_alarms_keep_to_whatever_budget_is_set(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, kind: Any, images: int
) -> None:
    monkeypatch.setattr(drift, "FALSE_ALARM", 0.1)
    monkeypatch.setattr(drift, "TOLERATED", 0.0)
    random, alarms = np.random.default_rng(2), 0
    for _ in range(500):
        watch = DriftWatch({"foil": histogram(kind.rvs(images, random_state=random))})
        tell(watch, kind.rvs(150, random_state=random))
        alarms += len(watch.look())
    assert 5 <= alarms <= 50


def test_images_that_resemble_their_neighbours_keep_to_the_budget_as_well(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "FALSE_ALARM", 0.1)
    monkeypatch.setattr(drift, "TOLERATED", 0.0)
    random, alike, alarms = np.random.default_rng(3), 0.8, 0
    for _ in range(300):
        watch = DriftWatch({"foil": histogram(random.normal(size=999))})
        noise = random.normal(size=WINDOW + 100) * math.sqrt(1 - alike**2)
        tell(watch, signal.lfilter([1], [1, -alike], noise)[100:])
        alarms += len(watch.look())
    assert 1 <= alarms <= 30


def test_one_defective_part_in_ten_is_no_drift(tell: Tell) -> None:
    random, good = np.random.default_rng(4), KINDS["normal"]
    watch = DriftWatch({"foil": histogram(good.rvs(2995, random_state=random))})
    for _ in range(100):
        scores = good.rvs(WINDOW, random_state=random)
        tell(watch, np.where(random.random(WINDOW) < 0.1, 5.0, scores), outcome=Outcome.DEFECT)
        assert watch.look() == []


@every_kind
@pytest.mark.parametrize("way", [-0.5, 0.5])
@pytest.mark.parametrize("images", [99, 999])
def test_a_shift_by_half_the_histograms_spread_is_told_within_one_window(
    tell: Tell, kind: Any, way: float, images: int
) -> None:
    random = np.random.default_rng(5)
    calibrated = histogram(kind.rvs(images, random_state=random))
    watch = DriftWatch({"foil": calibrated})
    tell(watch, kind.rvs(WINDOW, random_state=random))
    assert watch.look() == []
    shift = way * (calibrated.high - calibrated.low)
    tell(watch, kind.rvs(WINDOW, random_state=random) + shift)
    assert [found.state for found in watch.look()] == ["drifting"]


def test_a_shift_by_one_standard_deviation_is_told_within_one_window(tell: Tell) -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        watch = DriftWatch({"foil": histogram(random.normal(size=999))})
        tell(watch, random.normal(size=WINDOW) + 1)
        assert [found.state for found in watch.look()] == ["drifting"]


@pytest.mark.parametrize("scores", [[9.0] * WINDOW, np.linspace(2, 9, WINDOW)])
def test_scores_that_stand_still_or_run_away_are_told(tell: Tell, scores: Scores) -> None:
    watch = DriftWatch({"foil": histogram(np.random.default_rng(7).random(999))})
    tell(watch, scores)
    assert [found.ks for found in watch.look()] == [1.0]


def test_drifting_is_told_once_and_back_once_and_nothing_between(tell: Tell) -> None:
    random = np.random.default_rng(8)
    watch = DriftWatch({"foil": histogram(random.normal(size=999))})
    told = []
    # Up to where it drifts, down to where it would not have been told, and all the way back.
    for middle in (0, 1, 0.5, 1, 0.5, 0, 0, 0.5, 0, 1, 0):
        for _ in range(5):
            tell(watch, random.normal(size=WINDOW) + middle)
            told += [(middle, found.state) for found in watch.look()]
    assert told == [(1, "drifting"), (0, "back"), (1, "drifting"), (0, "back")]


def test_what_is_told_carries_its_numbers(tell: Tell) -> None:
    watch = DriftWatch({"foil": Histogram(low=0.0, high=4.0, counts=(200, 200, 400, 200))})
    tell(watch, [3.5] * 300, outcome=Outcome.DEFECT)
    (found,) = watch.look()
    assert found == Drift("left", "foil", ks=0.8, images=300, median=3.5, calibrated_median=2.25,
                          state="drifting")  # fmt: skip


@pytest.mark.parametrize("images", [19, 1000])
def test_the_calibration_images_themselves_are_at_no_distance(tell: Tell, images: int) -> None:
    scores = np.float32(np.random.default_rng(9).gamma(2, size=images)).astype(float)
    assert drift._Calibrated(histogram(scores)).distance(np.sort(scores)) == pytest.approx(0)


def test_what_is_no_score_is_not_counted(tell: Tell) -> None:
    watch = DriftWatch({"foil": histogram(np.random.default_rng(10).random(999))})
    tell(watch, [None, math.nan, math.inf, -math.inf] * WINDOW)
    tell(watch, [9.0] * WINDOW, outcome=Outcome.UNINSPECTED, reason=Reason.LATE)
    assert watch.look() == []
    tell(watch, [9.0] * 100)
    assert [found.images for found in watch.look()] == [100]


def test_neither_recipes_nor_cameras_are_mixed(tell: Tell) -> None:
    random = np.random.default_rng(11)
    low, high = random.random(999), random.random(999) + 5
    watch = DriftWatch({"foil": histogram(low), "felt": histogram(high)})
    for _ in range(10):
        tell(watch, random.random(200), "left", recipe="foil")
        tell(watch, random.random(200) + 5, "left", recipe="felt")
        tell(watch, random.random(200), "right", recipe="foil")
        assert watch.look() == []
    tell(watch, random.random(WINDOW), "left", recipe="felt")
    tell(watch, random.random(WINDOW) + 5, "right", recipe="foil")
    told = {(found.camera, found.recipe) for found in watch.look()}
    assert told == {("left", "felt"), ("right", "foil")}


def test_memory_does_not_grow_with_what_is_told(tell: Tell) -> None:
    scores = np.random.default_rng(12).random(WINDOW).tolist()
    watch = DriftWatch({"foil": histogram(np.array(scores))})
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(2):
            for _ in range(10):
                tell(watch, (score + 0.0 for score in scores))
                watch.look()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 2000


def test_being_told_costs_the_event_loop_microseconds(tell: Tell) -> None:
    watch = DriftWatch({"foil": histogram(np.random.default_rng(13).random(999))})
    began_ns = time.perf_counter_ns()
    tell(watch, [0.5] * 20_000)
    assert (time.perf_counter_ns() - began_ns) / 20_000 < 50_000
