"""Promise 4: false rejects are a budget, kept by a threshold from normal images only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct
from model.bundle import Bundle
from model.engine import Scored
from model.quality import Quality
from training.calibrate import calibrate, from_scores, images_needed, rank_of, upper_bound
from training.commands import calibrate_to
from training.errors import DataError
from training.images import read_normals


def scored(values: Sequence[float]) -> list[Scored]:
    return [Scored(v, np.zeros((1, 1), np.float32), Quality(0.5, 0.1, 0.0, 64)) for v in values]


@pytest.mark.parametrize(("rate", "needed"), [(0.001, 999), (0.01, 99), (0.05, 19), (0.5, 1)])
def test_images_needed_for_a_budget(rate: float, needed: int) -> None:
    assert images_needed(rate) == needed
    assert rank_of(needed, rate) == needed
    assert rank_of(needed - 1, rate) > needed - 1


def test_a_95_percent_bound_of_one_in_a_thousand_needs_2995_images() -> None:
    """With no false reject among them: the bound of the largest of n."""
    assert upper_bound(2995, 2995) <= 0.001 < upper_bound(2994, 2994)


@given(
    values=st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=19, max_size=200),
    rate=st.sampled_from([0.05, 0.1, 0.3]),
)
def test_threshold_is_the_order_statistic(values: list[float], rate: float) -> None:
    calibration = from_scores(
        scored(values), "h", false_reject_rate=rate, dtype="float32", camera="c", recipe="r"
    )
    rank = int(np.ceil((len(values) + 1) * (1 - rate) - 1e-9))
    assert calibration.threshold == sorted(values)[rank - 1]
    over = sum(v > calibration.threshold for v in values)
    assert over <= rate * (len(values) + 1)
    assert sum(calibration.histogram.counts) == len(values)


def test_the_expected_share_over_the_threshold_keeps_the_budget() -> None:
    rng = np.random.default_rng(1)
    rates, broken = [], 0
    for _ in range(200):
        calibration = from_scores(
            scored(rng.gamma(2, size=300).tolist()), "h", false_reject_rate=0.02,
            dtype="float32", camera="c", recipe="r",
        )  # fmt: skip
        true_rate = float((rng.gamma(2, size=20_000) > calibration.threshold).mean())
        rates.append(true_rate)
        broken += true_rate > calibration.bound
    # Standard error of the mean over 200 calibrations: 0.0006.
    assert np.mean(rates) < 0.02 + 3 * 0.0006
    assert broken <= 20, "a 95 % bound is broken in 5 % of cases: 10 of 200, 20 once in 600"


def test_an_infinite_score_is_refused() -> None:
    with pytest.raises(DataError, match="not a number"):
        from_scores(
            scored([1.0, float("nan")]), "h", false_reject_rate=0.5, dtype="float32", camera="c",
            recipe="r",
        )  # fmt: skip


def test_too_few_images_say_how_many_are_missing(
    make_data: Callable[..., Path], tiny_bundle: Bundle
) -> None:
    data = make_data(SimulatedProduct("grain", 64, 64), 7)
    with pytest.raises(DataError, match=r"12 more for a false-reject rate of 0.05"):
        calibrate(tiny_bundle, data, 0.05, "float32", "cpu", "any", "default", lambda *_: None)


def test_images_that_trained_the_bundle_never_calibrate_it(
    make_data: Callable[..., Path], tiny_bundle: Bundle
) -> None:
    data = make_data(SimulatedProduct("grain", 64, 64), 6)
    taught = frozenset(image.fingerprint for image in read_normals(data)[:3])
    bundle = replace(tiny_bundle, fingerprints=taught)
    calibration, _ = calibrate(
        bundle, data, 0.4, "float32", "cpu", "any", "default", lambda *_: None
    )
    assert calibration.images == 3
    assert calibration.bundle == bundle.hash


WRONG = {
    "black": (np.zeros((64, 64, 1), np.uint8), "brightness", "above 0"),
    "all white": (np.full((64, 64, 1), 255, np.uint8), "saturated", "under 1"),
    "flat": (np.full((64, 64, 1), 77, np.uint8), "sharpness", "above 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_image_that_would_switch_a_check_off_is_refused_by_name_and_nothing_is_written(
    make_data: Callable[..., Path], tmp_path: Path, tiny_bundle: Bundle, wrong: str
) -> None:
    pixels, measure, expected = WRONG[wrong]
    data = make_data(SimulatedProduct("grain", 64, 64), 6)
    image, bundle = data / "train/good/003.png", tmp_path / "tiny.safetensors"
    out = tmp_path / "calibration.json"
    write_image(image, pixels)
    tiny_bundle.save(bundle)
    with pytest.raises(DataError) as refused:
        calibrate_to(
            bundle, data, 0.4, out, "any", "default", "float32", "cpu", lambda *_: None
        )  # fmt: skip
    assert (refused.value.file, refused.value.key) == (image, measure)
    assert expected in str(refused.value)
    assert not out.exists()


def test_a_dark_image_with_little_to_see_is_a_normal_one(
    make_data: Callable[..., Path], tiny_bundle: Bundle
) -> None:
    """Under dark-field light a good surface is almost black."""
    data = make_data(SimulatedProduct("grain", 64, 64), 6)
    dark = np.zeros((64, 64, 1), np.uint8)
    dark[20:24, 30] = 3
    write_image(data / "train/good/003.png", dark)
    calibration, _ = calibrate(
        tiny_bundle, data, 0.4, "float32", "cpu", "any", "default", lambda *_: None
    )
    assert calibration.quality.brightness_low > 0
    assert calibration.quality.sharpness_low > 0


def test_the_least_change_is_learned_from_the_last_four_images_as_the_line_measures_it(
    make_data: Callable[..., Path], tiny_bundle: Bundle
) -> None:
    """A product that alternates: each image is like the last but one, none like its neighbour."""
    data = make_data(SimulatedProduct("grain", 64, 64), 0)
    dice = np.random.default_rng(5)
    kinds = dice.integers(20, 200, (2, 64, 64, 1), np.uint8)
    for k in range(6):
        write_image(data / f"train/good/{k}.png", kinds[k % 2] + np.uint8(4 * k))
    calibration, _ = calibrate(
        tiny_bundle, data, 0.4, "float32", "cpu", "any", "default", lambda *_: None
    )
    assert calibration.quality.change_low == 4.0  # half of 8, from one to the next of its kind
