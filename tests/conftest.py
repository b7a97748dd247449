"""What all tests share: a tiny bundle with its calibration, made once, and the real surfaces."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle import Bundle
from model.calibration import Calibration, Histogram, QualityLimits, beside
from model.cma_ae import CmaAe
from model.settings import MemorySettings, ModelSettings, NetworkSettings

TINY = ModelSettings(network=NetworkSettings(channels=1, latent=16), memory=MemorySettings(items=8))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from more, and the same sums come out everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """An untrained model, as good as any for all that is not about what was learnt."""
    torch.manual_seed(7)
    model = CmaAe(TINY).eval()
    golden = np.random.default_rng(7).integers(0, 256, (4, 64, 64, 1), np.uint8)
    with torch.inference_mode():
        pixels = torch.from_numpy(golden).permute(0, 3, 1, 2).float()
        scores = model.map(pixels).amax(dim=(1, 2)).numpy()
    return Bundle(
        settings=TINY,
        weights={name: tensor.numpy() for name, tensor in model.state_dict().items()},
        golden_pixels=golden,
        golden_scores=scores,
        report={"made": "by a test"},
        fingerprints=frozenset(),
        versions={},
    )


@pytest.fixture
def tiny_files(
    tiny_bundle: Bundle, calibration_for: Callable[..., Calibration], tmp_path: Path
) -> Path:
    """The tiny bundle on disk with a calibration beside it that finds no defect in noise."""
    path = tmp_path / "tiny.safetensors"
    tiny_bundle.save(path)
    calibration_for(tiny_bundle).save(beside(path))
    return path


@pytest.fixture(scope="session")
def calibration_for() -> Callable[..., Calibration]:
    """Makes a calibration for a bundle, with the threshold that a test needs."""
    return _calibration


def _calibration(bundle: Bundle, threshold: float = 1e9) -> Calibration:
    return Calibration(
        bundle=bundle.hash,
        dtype="float32",
        camera="any",
        recipe="default",
        false_reject_rate=0.01,
        images=100,
        rank=100,
        threshold=threshold,
        confidence=0.95,
        bound=0.03,
        quality=QualityLimits(
            brightness_low=0.01, brightness_high=0.99, sharpness_low=0.0, saturated_high=0.9,
            change_low=0.0, rows_low=64,
        ),
        histogram=Histogram(low=0.0, high=1.0, counts=(100,)),
    )


@pytest.fixture(scope="session")
def surfaces() -> Path:
    """The real surfaces. In CI their absence is a failure; elsewhere it is said."""
    named = os.environ.get("CLEARLINE_DATA")
    if named and Path(named).is_dir():
        return Path(named)
    if os.environ.get("CI"):
        pytest.fail(f"CLEARLINE_DATA names no folder of real surfaces: {named}")
    pytest.skip("set CLEARLINE_DATA to the folder of real surfaces")
