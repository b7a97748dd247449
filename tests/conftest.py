"""What all tests share: a tiny bundle with its calibration, made once, and the real surfaces."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from plant import bundles

from model.bundle import Bundle
from model.calibration import Calibration, beside

# Examples may be slow where the machine is: no promise of ours is about that.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from more, and the same sums come out everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """An untrained model, as good as any for all that is not about what was learnt."""
    return bundles.tiny_bundle()


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
    return bundles.calibration_for


@pytest.fixture(scope="session")
def surfaces() -> Path:
    """The real surfaces. In CI their absence is a failure; elsewhere it is said."""
    named = os.environ.get("CLEARLINE_DATA")
    if named and Path(named).is_dir():
        return Path(named)
    if os.environ.get("CI"):
        pytest.fail(f"CLEARLINE_DATA names no folder of real surfaces: {named}")
    pytest.skip("set CLEARLINE_DATA to the folder of real surfaces")
