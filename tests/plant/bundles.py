"""A tiny bundle with its calibration, for whatever is not about what a model learnt."""

import numpy as np
import torch

from model.bundle import Bundle
from model.calibration import Calibration, Histogram, QualityLimits
from model.cma_ae import CmaAe
from model.settings import MemorySettings, ModelSettings, NetworkSettings

TINY = ModelSettings(network=NetworkSettings(channels=1, latent=16), memory=MemorySettings(items=8))


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


def calibration_for(bundle: Bundle, threshold: float = 1e9) -> Calibration:
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
            brightness_low=0.01,
            brightness_high=0.99,
            sharpness_low=0.0,
            saturated_high=0.9,
            change_low=0.0,
            rows_low=64,
        ),
        histogram=Histogram(low=0.0, high=1.0, counts=(100,)),
    )
