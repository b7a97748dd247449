"""The whole model is the paper from end to end: pixels in, defect map out, at any setting."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from model import cma_ae
from model.cma_ae import CmaAe
from model.errors import FrameShapeError
from model.settings import PRINTED, MemorySettings, ModelSettings, NetworkSettings

MakeModel = Callable[[ModelSettings], CmaAe]
HEIGHT, WIDTH = 72, 100
FIELDS = {"receptive_field": (16, 64, 196), "equal": (1, 1, 1), "scale1": (1, 0, 0)}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "printed": {"memory": {"items": 8, **PRINTED.memory.model_dump(exclude={"items"})}},
    "softmax gates": {"memory": {"items": 8, "gates": "softmax"}},
    "per patch": {"residual": {"scope": "patch"}},
    "pixels": {"residual": {"residual": "pixels"}},
    "pixels per patch": {"residual": {"residual": "pixels", "scope": "patch"}, "stride": 32},
    "equal weights": {"residual": {"weights": "equal"}},
    "scale 1": {"residual": {"weights": "scale1"}},
    "outer activation": {"network": {"channels": 1, "latent": 16, "outer_activation": True}},
    "stride 32": {"stride": 32},
    "colour": {"network": {"channels": 3, "latent": 16}},
    "12 bit": {"white": 4095},
}


def _settings(variant: str, small: ModelSettings) -> ModelSettings:
    return ModelSettings.model_validate(small.model_dump() | VARIANTS[variant])


def _pixels(settings: ModelSettings, batch: int = 1) -> torch.Tensor:
    shape = (batch, settings.network.channels, HEIGHT, WIDTH)
    random = torch.Generator().manual_seed(6)
    return torch.randint(0, settings.white + 1, shape, generator=random).float()


def _assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Without torch.testing, whose import alone takes seconds."""
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


def _transcribed(paper: ModuleType, model: CmaAe, pixels: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W): sections 3.3 to 3.5 one after the other."""
    settings = model.settings
    outer, kind = settings.network.outer_activation, settings.memory.gates
    encoder, decoder, items, gates = (
        paper.numbers_of(model, prefix)
        for prefix in ("encoder.", "decoder.", "cmam.memory.", "cmam.gates.")
    )
    image = pixels / settings.white * 2 - 1
    corners = [
        (y, x)
        for y in paper.starts(HEIGHT, settings.stride)
        for x in paper.starts(WIDTH, settings.stride)
    ]
    patches = [image[:, y : y + 64, x : x + 64] for y, x in corners]
    repaired = []
    for patch in patches:
        z = paper.encode(patch, encoder, outer)
        weights = paper.shrink(paper.address(z, items["items"], settings.memory.temperature))
        sigma = {"sigmoid": paper.sigmoid, "softmax": paper.softmax}[kind]
        code = paper.repair(z, paper.recall(weights, items["items"]), gates, sigma)
        repaired.append(paper.decode(code, decoder, outer))

    def residual(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if settings.residual.residual == "pixels":
            return np.asarray(((a - b) ** 2).mean(axis=0))
        scales = [paper.features(x, encoder, outer) for x in (a, b)]
        return np.asarray(paper.msfr(*scales, *a.shape[1:], FIELDS[settings.residual.weights]))

    if settings.residual.scope == "patch":
        maps = [residual(a, b)[None] for a, b in zip(patches, repaired, strict=True)]
        return np.asarray(paper.average(maps, corners, HEIGHT, WIDTH)[0])
    return residual(image, paper.average(repaired, corners, HEIGHT, WIDTH))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_defect_map_is_the_papers(
    paper: ModuleType, make_model: MakeModel, small: ModelSettings, variant: str
) -> None:
    model = make_model(_settings(variant, small))
    pixels = _pixels(model.settings)
    with torch.inference_mode():
        got = model.map(pixels)[0].numpy()
    expected = _transcribed(paper, model, pixels[0].numpy().astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_every_variant_changes_the_map(make_model: MakeModel, small: ModelSettings) -> None:
    """A setting that nothing reads would pass every comparison above."""
    maps = {}
    for variant in VARIANTS:
        model = make_model(_settings(variant, small))
        with torch.inference_mode():
            maps[variant] = model.map(_pixels(model.settings))[0].numpy().tobytes()
    assert len(set(maps.values())) == len(VARIANTS)


def test_the_defaults_are_those_of_the_reading_notes() -> None:
    defaults = ModelSettings()
    assert (defaults.network.channels, defaults.network.latent) == (3, 512)
    assert not defaults.network.outer_activation
    assert (defaults.stride, defaults.white) == (64, 255)


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_normalisation_reaches_from_minus_one_to_one(white: int) -> None:
    network, memory = NetworkSettings(channels=1, latent=8), MemorySettings(items=2)
    model = CmaAe(ModelSettings(network=network, memory=memory, white=white))
    got = model.normalise(torch.tensor([0.0, white / 2, white]))
    _assert_close(got, torch.tensor([-1.0, 0.0, 1.0]))


def test_large_frames_in_several_passes_give_the_same_map(
    make_model: MakeModel, small: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(_settings("stride 32", small))
    with torch.inference_mode():
        whole = model.map(_pixels(model.settings, batch=2))
        monkeypatch.setattr(cma_ae, "AT_ONCE", 5)
        _assert_close(model.map(_pixels(model.settings, batch=2)), whole)


def test_repair_gives_patches_and_the_weights_that_made_them(
    make_model: MakeModel, small: ModelSettings
) -> None:
    model = make_model(small)
    patches = model.normalise(_pixels(small))[..., :64, :64]
    repair = model(patches)
    assert repair.patches.shape == (1, 1, 64, 64)
    _assert_close(repair.weights, model.cmam.memory(model.encoder(patches)).weights)


def test_images_of_other_channels_or_too_small_are_refused(
    make_model: MakeModel, small: ModelSettings
) -> None:
    model = make_model(small)
    with pytest.raises(FrameShapeError, match="channels = 3 does not fit this model; expected 1"):
        model.map(torch.zeros(1, 3, 64, 64))
    with pytest.raises(FrameShapeError, match="image = '64x63' is smaller than a patch"):
        model.map(torch.zeros(1, 1, 63, 64))


def _float_tensors() -> list[str]:
    model = CmaAe(ModelSettings(network=NetworkSettings(latent=8), memory=MemorySettings(items=2)))
    return [name for name, t in model.state_dict().items() if t.is_floating_point()]


@pytest.mark.parametrize("name", _float_tensors())
def test_one_nan_in_any_weight_makes_the_score_nan(
    make_model: MakeModel, small: ModelSettings, name: str
) -> None:
    model = make_model(small)
    model.state_dict()[name].view(-1)[-1] = float("nan")
    with torch.inference_mode():
        scores = model.map(_pixels(small, batch=2)).amax(dim=(1, 2))
    assert scores.isnan().all()


def test_a_nan_in_one_frame_leaves_its_neighbours_alone(
    make_model: MakeModel, small: ModelSettings
) -> None:
    model = make_model(small)
    pixels = _pixels(small, batch=2)
    pixels[1, 0, -1, -1] = float("nan")
    with torch.inference_mode():
        good, bad = model.map(pixels).amax(dim=(1, 2))
    assert good.isfinite()
    assert bad.isnan()
