"""A camera that repeats itself is seen, also where it shows a few stuck buffers in turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.change import LATELY, Lately, change, sample


def _picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)


@pytest.mark.parametrize("buffers", range(1, LATELY + 1))
def test_stuck_buffers_shown_in_turn_do_not_change(buffers: int) -> None:
    lately = Lately()
    first = [lately.change(_picture(k)) for k in range(buffers)]
    assert all(c is None or c > 0 for c in first)
    assert [lately.change(_picture(k % buffers)) for k in range(2 * buffers)] == [0.0] * 2 * buffers


def test_a_picture_that_was_shown_longer_ago_is_a_change() -> None:
    lately = Lately()
    for k in range(LATELY + 1):
        lately.change(_picture(k))
    again = lately.change(_picture(0))
    assert again is not None
    assert again > 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_change_is_the_least_of_those_from_the_last_four(seeds: list[int]) -> None:
    lately, before = Lately(), []
    for seed in seeds:
        now = sample(_picture(seed))
        expected = min((change(now, other) for other in before[-4:]), default=None)
        assert lately.change(_picture(seed)) == expected
        before.append(now)


def test_the_first_picture_has_nothing_to_be_compared_with() -> None:
    assert Lately().change(_picture(0)) is None


def test_pictures_of_another_size_are_left_out() -> None:
    lately = Lately()
    strip = _picture(1, height=80)
    lately.change(_picture(0))
    assert lately.change(strip) is None
    assert lately.change(_picture(0)) == 0.0
    assert lately.change(strip) == 0.0


def test_a_picture_is_kept_as_it_was_when_its_buffer_is_used_again() -> None:
    lately, buffer = Lately(), np.zeros((64, 64, 1), np.uint8)
    lately.change(buffer)
    buffer[:] = 7
    assert lately.change(buffer) == 7.0
