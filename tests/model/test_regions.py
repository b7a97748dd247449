"""Regions are the connected parts of a map over the threshold, strongest first, 16 at most."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from model.judgement import Judgement, judge
from model.regions import Region, find

maps = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 9)
)


def _transcribed(defect_map: np.ndarray, threshold: float) -> set[Region]:
    labels, _ = ndimage.label(defect_map > threshold, structure=np.ones((3, 3)))
    found = set()
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = defect_map[labels == k]
        found.add(
            Region(
                x=columns.start,
                y=rows.start,
                width=columns.stop - columns.start,
                height=rows.stop - rows.start,
                area=inside.size,
                score=float(inside.max()),
            )
        )
    return found


@settings(deadline=None)
@given(maps, st.integers(0, 8))
def test_regions_are_those_that_scipy_finds(defect_map: np.ndarray, threshold: int) -> None:
    found = find(defect_map, threshold, most=1000)
    assert len(found) == len(set(found))
    assert set(found) == _transcribed(defect_map, threshold)


def _one_by_one(defect_map: np.ndarray, threshold: float) -> tuple[Region, ...]:
    over = (defect_map > threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
    regions = []
    for label in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[label])
        score = float(defect_map[labels == label].max())
        regions.append(Region(x, y, width, height, area, score))
    return tuple(sorted(regions, key=lambda region: region.score, reverse=True))


floats = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.floats(width=32),  # also infinite, and no number
)


@settings(deadline=None)
@given(maps | floats, st.integers(0, 8), st.integers(0, 20))
def test_ranked_at_once_they_are_what_they_are_one_by_one(
    defect_map: np.ndarray, threshold: int, most: int
) -> None:
    """In the same order, too: of equally strong ones the upper comes first."""
    everything = _one_by_one(defect_map, threshold)
    expected, found = everything[:most], find(defect_map, threshold, most)
    largest = max((r.area for r in everything), default=0)
    if expected and max(r.area for r in expected) < largest:  # it is told in the last one's place
        assert found[:-1] == expected[:-1]
        assert found[-1] in everything
        assert found[-1].area == largest
    else:
        assert found == expected


def test_the_largest_is_told_though_many_small_ones_are_stronger() -> None:
    defect_map = np.zeros((100, 100), np.float32)
    defect_map[::4, 40::4] = 2
    defect_map[10:90, 5:30] = 1
    found = find(defect_map, 0.5)
    assert len(found) == 16
    assert found[-1] == Region(5, 10, 25, 80, 2000, 1.0)


def test_a_map_of_many_regions_takes_little_longer_than_one_of_few() -> None:
    """The worker judges one frame after the other: a noisy camera must not make the others late."""
    dotted, plain = np.zeros((2, 512, 512), np.float32)
    dotted[::4, ::4] = 1
    plain[100:200, 100:200] = 1

    def seconds(defect_map: np.ndarray) -> float:
        began = time.perf_counter()
        find(defect_map, 0.5)
        return time.perf_counter() - began

    few, many = (min(seconds(m) for _ in range(7)) for m in (plain, dotted))
    assert many < 15 * few, f"{1000 * few:.1f} ms, {1000 * many:.1f} ms"


@settings(deadline=None)
@given(maps, st.integers(0, 8))
def test_the_strongest_come_first_and_sixteen_at_most(
    defect_map: np.ndarray, threshold: int
) -> None:
    scores = [region.score for region in find(defect_map, threshold)]
    everything = sorted((r.score for r in _transcribed(defect_map, threshold)), reverse=True)
    assert scores[:15] == everything[:15]  # the 16th may be the largest instead
    assert len(scores) == len(everything[:16])


def test_of_many_regions_the_weakest_are_left_out() -> None:
    defect_map = np.zeros((9, 9), np.float32)
    defect_map[::2, ::2] = np.arange(1, 26).reshape(5, 5)
    found = find(defect_map, 0.5)
    assert [r.score for r in found] == list(range(25, 9, -1))


def test_diagonal_neighbours_are_one_region() -> None:
    found = find(np.eye(5, dtype=np.float32), 0.5)
    assert found == (Region(x=0, y=0, width=5, height=5, area=5, score=1.0),)


def test_a_region_within_the_box_of_another_keeps_its_own_score() -> None:
    defect_map = np.ones((7, 7), np.float32)
    defect_map[1:6, 1:6] = 0
    defect_map[3, 3] = 2
    assert find(defect_map, 0.5) == (Region(3, 3, 1, 1, 1, 2.0), Region(0, 0, 7, 7, 24, 1.0))


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_nothing_over_the_threshold_is_no_region(value: float) -> None:
    assert find(np.full((8, 8), value, np.float32), 1.0) == ()


def test_a_map_that_is_all_defect_is_one_region() -> None:
    assert find(np.full((3, 5), 2, np.float32), 1.0) == (Region(0, 0, 5, 3, 15, 2.0),)


@given(st.floats(1e-6, 1e6), st.integers(-2, 2))
@example(0.1, 0)
def test_a_defect_always_has_a_region_and_a_good_part_none(threshold: float, ulps: int) -> None:
    """Judgement and regions must compare alike: thresholds are float64, maps float32."""
    value = np.float32(threshold)
    for _ in range(abs(ulps)):
        value = np.nextafter(value, np.float32(np.inf * np.sign(ulps)))
    judgement = judge(float(value), threshold, None)
    regions = find(np.full((2, 2), value, np.float32), threshold)
    assert bool(regions) == (judgement is Judgement.DEFECT)
