"""A picture is measured as the words say, and one that cannot be judged is not accepted."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from model.change import change, sample
from model.judgement import Judgement
from model.quality import Quality, fault, learn, measure


def _texture(channels: int = 1, white: int = 255, seed: int = 0) -> np.ndarray:
    """(C, 40, 50): a normal picture, with contrast and some values at full scale."""
    noise = np.random.default_rng(seed).normal(0.5, 0.2, (channels, 40, 50))
    return np.round(np.clip(noise, 0, 1) * white)


def _measured(pixels: np.ndarray, white: int = 255) -> Quality:
    return measure(torch.from_numpy(pixels)[None], white)[0]


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_measures_are_what_their_words_say(channels: int, white: int) -> None:
    picture = _texture(channels, white)
    gray = picture.mean(axis=0) / white
    laplacian = [
        abs(gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1] - 4 * gray[y, x])
        for y in range(1, 39)
        for x in range(1, 49)
    ]
    got = _measured(picture, white)
    assert got.brightness == pytest.approx(gray.mean(), rel=1e-5)
    assert got.sharpness == pytest.approx(sum(laplacian) / len(laplacian), rel=1e-5)
    assert got.saturated == pytest.approx((picture == white).mean(), rel=1e-5)
    assert got.saturated > 0


def test_pictures_of_a_batch_are_measured_one_by_one() -> None:
    pictures = [_texture(seed=seed) for seed in range(3)]
    together = measure(torch.from_numpy(np.stack(pictures)), 255)
    assert together == [_measured(picture) for picture in pictures]


def _failures() -> dict[str, np.ndarray]:
    good = _texture()
    return {
        "black": np.zeros_like(good),
        "dark": good // 10,
        "white": np.full_like(good, 255),
        "flat gray": np.full_like(good, 128),
        "blurred": ndimage.gaussian_filter(good, (0, 2, 2)),
        "almost wholly saturated": np.where(np.arange(50) < 45, 255, good),
    }


@pytest.mark.parametrize("failure", _failures())
def test_a_picture_that_cannot_be_judged_is_not_accepted(failure: str) -> None:
    limits = learn([_measured(_texture(seed=seed)) for seed in range(8)])
    assert fault(limits, _measured(_failures()[failure])) is Judgement.IMAGE_QUALITY


def test_every_picture_that_limits_were_learned_from_is_accepted() -> None:
    normal = [_measured(_texture(seed=seed)) for seed in range(8)]
    assert all(fault(learn(normal), quality) is None for quality in normal)


def test_limits_lie_half_way_between_the_worst_normal_picture_and_the_failure() -> None:
    limits = learn([Quality(0.4, 0.2, 0.1, 64), Quality(0.6, 0.1, 0.0, 80)])
    assert limits.brightness_low == pytest.approx(0.2)
    assert limits.brightness_high == pytest.approx(0.8)
    assert limits.sharpness_low == pytest.approx(0.05)
    assert limits.saturated_high == pytest.approx(0.55)


@pytest.mark.parametrize("measure_name", ["brightness", "sharpness", "saturated"])
def test_a_measure_that_is_no_number_is_never_accepted(measure_name: str) -> None:
    good = Quality(0.5, 0.1, 0.0, 64)
    assert fault(learn([good]), good) is None
    assert (
        fault(learn([good]), replace(good, **{measure_name: math.nan})) is Judgement.IMAGE_QUALITY
    )


@given(st.floats(0, 1), st.floats(0, 4), st.floats(0, 1))
def test_each_limit_alone_refuses(brightness: float, sharpness: float, saturated: float) -> None:
    limits = learn([Quality(0.5, 0.2, 0.1, 64)])
    expected = 0.25 <= brightness <= 0.75 and sharpness >= 0.1 and saturated <= 0.55
    assert (fault(limits, Quality(brightness, sharpness, saturated, 64)) is None) == expected


def test_sharpness_is_measured_in_float32_under_autocast() -> None:
    """In bfloat16 a blurred picture looks sharper than it is by its rounding alone."""
    blurred = ndimage.gaussian_filter(_texture(), (0, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = _measured(blurred)
    assert under_autocast.sharpness == pytest.approx(_measured(blurred).sharpness, rel=1e-4)


def test_a_picture_as_alike_to_the_one_before_as_no_normal_ones_are_is_frozen() -> None:
    """A camera that repeats itself through an encoder is not the same to the last bit."""
    pictures = [_texture(seed=seed).transpose(1, 2, 0).astype(np.uint8) for seed in range(4)]
    changes = [change(sample(b), sample(a)) for a, b in itertools.pairwise(pictures)]
    good = Quality(0.5, 0.1, 0.0, 40)
    limits = learn([good, *(replace(good, change=c) for c in changes)])
    encoded_again = np.where(pictures[0] % 2 == 0, pictures[0], pictures[0] - 1)
    frozen = change(sample(encoded_again), sample(pictures[0]))
    assert frozen is not None
    assert frozen > 0
    assert fault(limits, replace(good, change=frozen)) is Judgement.IMAGE_QUALITY
    assert fault(limits, replace(good, change=min(c for c in changes if c is not None))) is None


def test_an_exact_repetition_is_frozen_whatever_was_learned() -> None:
    good = Quality(0.5, 0.1, 0.0, 40)
    assert fault(learn([good]), replace(good, change=0.0)) is Judgement.IMAGE_QUALITY
    assert fault(learn([good]), replace(good, change=1e-3)) is None


def test_a_strip_shorter_than_every_normal_one_is_incomplete() -> None:
    limits = learn([Quality(0.5, 0.1, 0.0, rows) for rows in (80, 64, 96)])
    assert limits.rows_low == 64
    assert fault(limits, Quality(0.5, 0.1, 0.0, 64)) is None
    assert fault(limits, Quality(0.5, 0.1, 0.0, 63)) is Judgement.INCOMPLETE
    assert fault(limits, Quality(0.0, 0.1, 0.0, 63)) is Judgement.INCOMPLETE


def test_pictures_of_two_sizes_are_not_compared() -> None:
    small, large = np.zeros((64, 64, 1), np.uint8), np.zeros((64, 80, 1), np.uint8)
    assert change(sample(small), sample(large)) is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_change_is_the_mean_difference_in_pixel_values_and_never_wraps(dtype: str) -> None:
    top = np.iinfo(dtype).max
    dark, light = np.zeros((64, 64, 1), dtype), np.full((64, 64, 1), top, dtype)
    assert change(sample(light), sample(dark)) == change(sample(dark), sample(light)) == top
