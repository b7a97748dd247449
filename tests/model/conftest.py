"""What the tests of the model share: the paper in numpy, and models that answer vividly."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from model.bundle import Bundle
from model.cma_ae import CmaAe
from model.settings import MemorySettings, ModelSettings, NetworkSettings

SMALL = ModelSettings(
    network=NetworkSettings(channels=1, latent=16), memory=MemorySettings(items=8)
)


@pytest.fixture(scope="session")
def paper() -> Iterator[ModuleType]:
    """transcription.py beside this file; tests are no package to import it from."""
    spec = importlib.util.spec_from_file_location(
        "transcription", Path(__file__).with_name("transcription.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with threadpool_limits(1, user_api="blas"):  # ten times slower where threads fight for cores
        yield module


@pytest.fixture(scope="session")
def small() -> ModelSettings:
    """The default settings but for their size."""
    return SMALL


@pytest.fixture(scope="session")
def enliven() -> Callable[[torch.nn.Module], None]:
    """Gives a module numbers under which every part of it shows in what comes out.

    A fresh model repairs every patch to nearly zero, and would hide an error in memory or gates.
    """
    return _enliven


def _enliven(module: torch.nn.Module) -> None:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=random)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0.0, 0.3, generator=random)
            elif tensor.dim() == 1:
                tensor.normal_(1.0, 0.2, generator=random)
            elif tensor.dim() > 1:
                tensor.normal_(0.0, 1.4 / float(tensor[0].numel()) ** 0.5, generator=random)


@pytest.fixture(scope="session")
def make_model(enliven: Callable[[torch.nn.Module], None]) -> Callable[[ModelSettings], CmaAe]:
    """A lively model in evaluation mode."""

    def make(settings: ModelSettings) -> CmaAe:
        model = CmaAe(settings)
        enliven(model)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_bundle(
    make_model: Callable[[ModelSettings], CmaAe],
) -> Callable[[ModelSettings], Bundle]:
    """A lively model in a bundle, with the golden scores that it has."""

    def make(settings: ModelSettings) -> Bundle:
        model = make_model(settings)
        shape = (3, 64, 64, settings.network.channels)
        golden = np.random.default_rng(3).integers(0, settings.white, shape, endpoint=True)
        pixels = torch.from_numpy(golden).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            scores = model.map(pixels).amax(dim=(1, 2)).numpy()
        return Bundle(
            settings=settings,
            weights={name: tensor.numpy() for name, tensor in model.state_dict().items()},
            golden_pixels=golden.astype(np.uint8 if settings.white == 255 else np.uint16),
            golden_scores=scores,
            report={},
            fingerprints=frozenset(),
            versions={},
        )

    return make
