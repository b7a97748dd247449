"""A bundle at work on a device: frames in, defect maps and picture quality out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle import Bundle
from model.calibration import Dtype
from model.cma_ae import CmaAe
from model.errors import BundleError, EngineError
from model.quality import Quality, measure
from model.settings import ModelSettings

TOLERANCE: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.2}
"""How far a golden score may be off, relative to the largest of them."""
LUMA = torch.tensor([0.299, 0.587, 0.114])  # of RGB, ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Scored:
    score: float
    """The largest value of the defect map; NaN or infinite where the network broke down."""
    defect_map: NDArray[np.float32]
    """(H, W)"""
    quality: Quality


class Engine:
    def __init__(self, bundle: Bundle, device: str = "auto", dtype: Dtype = "float32") -> None:
        """`device` is "auto" (CUDA where there is one), "cpu", or "cuda[:N]".

        Raises EngineError where the golden patches do not come out as they were when the bundle was
        made, BundleError where its weights are not those of its settings.
        """
        self.bundle, self.dtype = bundle, dtype
        self.device = find_device(device)
        self._model = restore(bundle.settings, bundle.weights).to(self.device)
        # Channels last is what the CPU's and the GPU's fast convolutions read.
        self._model.to(memory_format=torch.channels_last)
        self._check_golden()

    def score(self, frames: Sequence[NDArray[Any]]) -> list[Scored]:
        """Frames of one shape (H, W, C), uint8 or uint16, as cameras give them.

        Gray frames become colour for a model of colour, and colour ones their luma for a gray one.
        Raises FrameShapeError for frames under a patch.
        """
        pixels = self._upload(frames)
        with torch.inference_mode(), self._precision():
            maps = self._model.map(pixels).float()
            qualities = measure(pixels, self.bundle.settings.white)
        # amax gives NaN where there is one, so a broken map can never look small.
        scores = maps.amax(dim=(1, 2)).tolist()
        return [Scored(*row) for row in zip(scores, maps.cpu().numpy(), qualities, strict=True)]

    def _upload(self, frames: Sequence[NDArray[Any]]) -> Tensor:
        """(B, C, H, W) float32 in channels-last order: the axes as they lie, only named anew."""
        batch = torch.from_numpy(np.stack(frames))
        pixels = batch.to(self.device).permute(0, 3, 1, 2).float()
        channels = self.bundle.settings.network.channels
        if pixels.shape[1] == channels:
            return pixels
        if channels == 3:
            return pixels.expand(-1, 3, -1, -1)
        return torch.einsum("bchw,c->bhw", pixels, LUMA.to(self.device))[:, None]

    def _precision(self) -> torch.autocast:
        reduced = self.dtype != "float32"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=reduced)

    def _check_golden(self) -> None:
        expected = self.bundle.golden_scores
        got = np.array([s.score for s in self.score(list(self.bundle.golden_pixels))])
        with np.errstate(divide="ignore", invalid="ignore"):
            off = float(np.abs(got - expected).max() / expected.max())
        if not off <= TOLERANCE[self.dtype]:
            raise EngineError(
                f"does not reproduce the bundle's golden scores (off by {off:.2%} of the largest)",
                key="device",
                value=f"{self.device} in {self.dtype}",
                expected=f"at most {TOLERANCE[self.dtype]:.1%}",
            )


def restore(settings: ModelSettings, weights: Any) -> CmaAe:
    """A model in evaluation mode from a bundle's arrays."""
    model = CmaAe(settings)
    for name, weight in weights.items():
        # A single infinite weight can still give a finite score, through a gate or a batch-norm.
        if not np.isfinite(weight).all():
            raise BundleError(
                "holds values that are no numbers", key=name, expected="finite weights"
            )
    try:
        model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"has weights that do not fit its settings ({reason[:160]})") from error
    return model.eval()


def find_device(name: str) -> torch.device:
    """`name` is "auto", "cpu" or "cuda[:N]". Raises EngineError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise EngineError(
            "is not there (no kind that we run on)",
            key="device",
            value=name,
            expected="auto, cpu or cuda:N",
        )
    device = torch.device(name)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"is not there ({reason})", key="device", value=name, expected="auto, cpu or cuda:N"
        ) from error
    if device.type == "cuda":
        # TF32 would round every product to 10 bits; the golden scores are float32's.
        torch.backends.cudnn.allow_tf32 = False
    return device
