"""The defect map is eq. 14, with every choice of residual and weights."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from model.msfr import WEIGHTS, defect_map
from model.network import Encoder
from model.settings import NetworkSettings, ResidualSettings

Enliven = Callable[[torch.nn.Module], None]
FIELDS = {"receptive_field": (16, 64, 196), "equal": (1, 1, 1), "scale1": (1, 0, 0)}


@pytest.fixture(scope="module")
def encoder(enliven: Enliven) -> Encoder:
    encoder = Encoder(NetworkSettings(latent=16)).eval()
    enliven(encoder)
    return encoder


def _pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of three channels and its repaired self."""
    image, repaired = torch.rand(
        2, 1, 3, height, width, generator=torch.Generator().manual_seed(4)
    ).unbind()
    return image, repaired


@pytest.mark.parametrize("weights", ["receptive_field", "equal", "scale1"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (21, 30), (22, 19)])
def test_feature_residual_is_equation_14(
    paper: ModuleType, encoder: Encoder, weights: str, height: int, width: int
) -> None:
    image, repaired = _pair(height, width)
    settings = ResidualSettings.model_validate({"weights": weights})
    with torch.inference_mode():
        got = defect_map(encoder, image, repaired, settings)
    numbers = paper.numbers_of(encoder)
    expected = paper.msfr(
        paper.features(image[0].numpy(), numbers),
        paper.features(repaired[0].numpy(), numbers),
        height,
        width,
        FIELDS[weights],
    )
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-5)


def test_pixel_residual_is_the_squared_difference_of_the_images(encoder: Encoder) -> None:
    image, repaired = _pair(20, 24)
    got = defect_map(encoder, image, repaired, ResidualSettings(residual="pixels"))
    expected = ((image[0].numpy() - repaired[0].numpy()) ** 2).mean(axis=0)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5)


def test_the_default_weights_are_the_printed_ones() -> None:
    assert ResidualSettings() == ResidualSettings(
        residual="features", weights="receptive_field", scope="image"
    )
    assert WEIGHTS["receptive_field"] == pytest.approx((16 / 276, 64 / 276, 196 / 276))


@pytest.mark.parametrize("residual", ["features", "pixels"])
def test_the_map_is_zero_exactly_where_nothing_was_repaired(
    encoder: Encoder, residual: str
) -> None:
    image, repaired = _pair(64, 64)
    repaired[..., 32:] = image[..., 32:]
    settings = ResidualSettings.model_validate({"residual": residual})
    with torch.inference_mode():
        got = defect_map(encoder, image, repaired, settings)[0]
    assert (got[:, :24] > 0).all()
    assert (got[:, 44:] == 0).all()
    assert got.shape == (64, 64)
