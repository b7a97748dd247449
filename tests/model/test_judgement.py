"""`ok` is said of a finite score up to the threshold in a sound picture, and of nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.judgement import Judgement, judge

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("score", [NAN, INF, -INF])
@pytest.mark.parametrize("threshold", [0.0, 1.0, NAN, INF])
@pytest.mark.parametrize("sound", [True, False])
def test_a_score_that_is_no_number_is_an_invalid_score(
    score: float, threshold: float, sound: bool
) -> None:
    assert judge(score, threshold, sound=sound) is Judgement.INVALID_SCORE


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0, 2.0])
def test_an_unsound_picture_is_never_judged(score: float) -> None:
    assert judge(score, 1.0, sound=False) is Judgement.IMAGE_QUALITY


def test_the_threshold_itself_is_still_ok() -> None:
    assert judge(1.0, 1.0, sound=True) is Judgement.OK
    assert judge(math.nextafter(1.0, 2.0), 1.0, sound=True) is Judgement.DEFECT


@given(st.floats())
def test_a_threshold_that_is_no_number_never_says_ok(score: float) -> None:
    assert judge(score, NAN, sound=True) is not Judgement.OK


@given(st.floats(), st.floats(), st.booleans())
def test_ok_if_and_only_if_finite_within_the_threshold_and_sound(
    score: float, threshold: float, sound: bool
) -> None:
    expected = math.isfinite(score) and score <= threshold and sound
    assert (judge(score, threshold, sound=sound) is Judgement.OK) == expected
