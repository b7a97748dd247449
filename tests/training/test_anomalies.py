"""GAAGA: eq. 1 as printed, the richer mode, and masks that are the truth about both."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import clearline
from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct
from training.anomalies import BLUR_SIGMA, LEAST_CHANGE, Gaaga, Natural
from training.settings import AnomalySettings

PRODUCT = SimulatedProduct("woven", 128, 160)


@pytest.fixture(params=["paper", "rich"])
def gaaga(request: pytest.FixtureRequest) -> Gaaga:
    return Gaaga(AnomalySettings(gaaga=request.param), Natural(None, 1), 255)


@pytest.mark.parametrize("seed", range(25))
def test_outside_the_mask_nothing_changed(gaaga: Gaaga, seed: int) -> None:
    image = PRODUCT.part(seed % 7).pixels
    anomaly = gaaga.corrupt(image, PRODUCT.part(9).pixels, np.random.default_rng(seed))
    assert anomaly.pixels.dtype == image.dtype
    np.testing.assert_array_equal(anomaly.pixels[~anomaly.mask], image[~anomaly.mask])
    if anomaly.mask.any():
        change = np.abs(anomaly.pixels.astype(int) - image.astype(int))[anomaly.mask]
        assert change.max() >= LEAST_CHANGE


def test_paper_pastes_two_opaque_squares_half_as_wide_as_the_window() -> None:
    """256 on 512 as printed: a natural crop first, the blurred one over it."""
    image = np.full((512, 512, 1), 100, np.uint8)
    gaaga = Gaaga(AnomalySettings(gaaga="paper"), White(), 255)
    rng = np.random.default_rng(3)
    pasted = gaaga.corrupt(image, image, rng).pixels[:, :, 0]
    rows, columns = np.nonzero(pasted == 255)
    # The blurred crop of a flat product is flat: what is left of the natural square is white.
    assert rows.max() - rows.min() < 256
    assert columns.max() - columns.min() < 256
    assert set(np.unique(pasted)) <= {100, 255}
    assert (pasted == 255).sum() <= 256 * 256


def sharpness(image: np.ndarray) -> float:
    return float(np.abs(cv2.Laplacian(image.astype(np.float32), -1)).mean())


def test_paper_blurs_its_own_crop_and_leaves_the_natural_one_sharp() -> None:
    product = PRODUCT.part(0).pixels
    gaaga = Gaaga(AnomalySettings(gaaga="paper"), White(), 255)
    for seed in range(5):
        anomaly = gaaga.corrupt(product, product, np.random.default_rng(seed))
        blurred = anomaly.mask & (anomaly.pixels[:, :, 0] < 250)
        rows, columns = np.nonzero(blurred)
        inner = (
            slice(rows.min() + 8, rows.min() + 40),
            slice(columns.min() + 8, columns.min() + 40),
        )
        if blurred[inner].all() and blurred[inner].size:
            assert sharpness(anomaly.pixels[inner]) < 0.5 * sharpness(product)
            return
    pytest.fail(f"no seed showed a whole blurred square (sigma {BLUR_SIGMA})")


class White(Natural):
    """A natural image that no product looks like."""

    def __init__(self) -> None:
        super().__init__(None, 1)

    def crop(self, side: int, rng: np.random.Generator) -> np.ndarray:
        return np.full((side, side, 1), 255, np.float32)


def test_rich_varies_size_opacity_and_shape() -> None:
    gaaga = Gaaga(AnomalySettings(gaaga="rich"), Natural(None, 1), 255)
    rng = np.random.default_rng(0)
    shares, fillings = [], []
    for k in range(60):
        image = PRODUCT.part(k).pixels
        anomaly = gaaga.corrupt(image, PRODUCT.part(k + 1).pixels, rng)
        shares.append(anomaly.mask.mean())
        count, _, stats, _ = cv2.connectedComponentsWithStats(anomaly.mask.astype(np.uint8))
        boxes = stats[1:count, cv2.CC_STAT_WIDTH] * stats[1:count, cv2.CC_STAT_HEIGHT]
        fillings += list(stats[1:count, cv2.CC_STAT_AREA] / boxes)
    assert min(shares) < 0.005 < 0.1 < max(shares)
    assert min(fillings) < 0.35, "thin or ragged ones"
    assert max(fillings) > 0.75, "full ones"


@pytest.mark.parametrize(("channels", "dtype", "white"), [(3, "uint8", 255), (1, "uint16", 4095)])
def test_colour_and_16_bit_keep_their_type_and_range(channels: int, dtype: str, white: int) -> None:
    product = SimulatedProduct("wood", 96, 96, channels, dtype)  # type: ignore[arg-type]
    image = product.part(0).pixels
    for mode in ("paper", "rich"):
        gaaga = Gaaga(AnomalySettings(gaaga=mode), Natural(None, channels), white)  # type: ignore[arg-type]
        for seed in range(8):
            pixels = gaaga.corrupt(image, image, np.random.default_rng(seed)).pixels
            assert pixels.shape == image.shape
            assert pixels.dtype == image.dtype
            assert pixels.max() <= white


def test_natural_crops_come_from_the_folder_the_user_names(tmp_path: Path) -> None:
    red = np.zeros((50, 80, 3), np.uint8)
    red[:, :, 0] = 200
    write_image(tmp_path / "red.png", red)
    natural = Natural(tmp_path, 3)
    crop = natural.crop(64, np.random.default_rng(0))
    assert crop.shape == (64, 64, 3)
    assert np.allclose(crop[..., 0], 200)
    assert natural.name == "1 photographs"


def test_without_a_folder_the_report_says_procedural() -> None:
    assert Natural(None, 1).name == "procedural textures"


def test_an_empty_folder_of_photographs_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(clearline.Error, match="holds no image") as raised:
        Natural(tmp_path, 1)
    assert str(tmp_path) in str(raised.value)


def test_the_same_generator_gives_the_same_anomaly(gaaga: Gaaga) -> None:
    image = PRODUCT.part(0).pixels

    def made() -> np.ndarray:
        return gaaga.corrupt(image, image, np.random.default_rng(5)).pixels

    np.testing.assert_array_equal(made(), made())
