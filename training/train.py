"""From a folder of normal images to a bundle."""

import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import clearline
from adapters.ports import Pixels
from model.bundle import Bundle
from model.cma_ae import CmaAe
from model.engine import find_device
from model.settings import PATCH, ModelSettings
from training.anomalies import Gaaga, Natural
from training.images import Watch, read_normals, share_out
from training.sampler import Sampler, as_tensor
from training.settings import TrainingSettings
from training.two_stage import Monitor, TwoStage

GOLDEN = 4  # patches of each kind: normal, and with an artificial anomaly


def train(
    data: Path,
    checkpoint: Path,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    natural_folder: Path | None,
    monitor: Monitor,
    watch: Watch,
    device: str = "auto",
) -> Bundle:
    """`model_settings` gives all but channels and white, which the images say.

    Raises DataError or ImageFileError for the folders, TrainingError for the training.
    """
    shares = share_out(read_normals(data, watch), settings.calibration_share)
    model_settings = _as_the_images(model_settings, [image.pixels for image in shares.learn])
    natural = Natural(natural_folder, model_settings.network.channels, watch)
    gaaga = Gaaga(settings.anomalies, natural, model_settings.white)
    torch.manual_seed(settings.seed)
    model = CmaAe(model_settings)
    where = find_device(device)
    loop = TwoStage(model, settings, shares, gaaga, checkpoint, monitor, where)
    model = loop.run().cpu()
    golden = _golden_patches(Sampler(shares.hold_out, gaaga, np.random.default_rng(settings.seed)))
    with torch.inference_mode():
        golden_scores = model.map(as_tensor(list(golden))).amax(dim=(1, 2))
    return Bundle(
        settings=model_settings,
        weights={name: tensor.numpy() for name, tensor in model.state_dict().items()},
        golden_pixels=golden,
        golden_scores=golden_scores.numpy(),
        report={
            "data": data.name,
            "images": {
                "learn": len(shares.learn),
                "hold_out": len(shares.hold_out),
                "left_for_calibration": len(shares.calibrate),
            },
            "natural": natural.name,
            "training": settings.model_dump(),
            **asdict(loop.standing),
        },
        fingerprints=frozenset(i.fingerprint for i in (*shares.learn, *shares.hold_out)),
        versions={
            "clearline": clearline.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _golden_patches(sampler: Sampler) -> Pixels:
    """(2 * GOLDEN, 64, 64, C), half of them with an artificial anomaly."""
    clean = [sampler.square(PATCH) for _ in range(GOLDEN)]
    corrupted = []
    for _ in range(GOLDEN):
        _, anomaly = sampler.window()
        y, x = sampler.over(anomaly.mask)
        corrupted.append(anomaly.pixels[y : y + PATCH, x : x + PATCH])
    return np.stack(clean + corrupted)


def _as_the_images(settings: ModelSettings, images: list[Pixels]) -> ModelSettings:
    """Channels as the images have; white is their type's, or for 16 bit the camera's own depth."""
    channels = images[0].shape[2]
    white = 255
    if images[0].dtype == np.uint16:
        brightest = max(int(image.max()) for image in images)
        white = (1 << max(8, brightest.bit_length())) - 1
    network = settings.network.model_copy(update={"channels": channels})
    return settings.model_copy(update={"network": network, "white": white})
