"""`ok` is said of a finite score up to the threshold in a sound picture, and of nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.judgement import Judgement, judge

NAN, INF = math.nan, math.inf
FAULTS = (None, Judgement.IMAGE_QUALITY, Judgement.INCOMPLETE)


@pytest.mark.parametrize("score", [NAN, INF, -INF])
@pytest.mark.parametrize("threshold", [0.0, 1.0, NAN, INF])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_score_that_is_no_number_is_an_invalid_score(
    score: float, threshold: float, fault: Judgement | None
) -> None:
    assert judge(score, threshold, fault) is Judgement.INVALID_SCORE


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("fault", FAULTS[1:])
def test_an_unsound_picture_is_never_judged(score: float, fault: Judgement) -> None:
    assert judge(score, 1.0, fault) is fault


def test_the_threshold_itself_is_still_ok() -> None:
    assert judge(1.0, 1.0, None) is Judgement.OK
    assert judge(math.nextafter(1.0, 2.0), 1.0, None) is Judgement.DEFECT


@given(st.floats())
def test_a_threshold_that_is_no_number_never_says_ok(score: float) -> None:
    assert judge(score, NAN, None) is not Judgement.OK


@given(st.floats(), st.floats(), st.sampled_from(FAULTS))
def test_ok_if_and_only_if_finite_within_the_threshold_and_sound(
    score: float, threshold: float, fault: Judgement | None
) -> None:
    expected = math.isfinite(score) and score <= threshold and fault is None
    assert (judge(score, threshold, fault) is Judgement.OK) == expected
