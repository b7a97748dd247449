"""Whether a picture can be judged at all: black, saturated, blurred and frozen ones repair
perfectly, and a short strip shows a part of its part."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.calibration import QualityLimits
from model.judgement import Judgement


@dataclass(frozen=True, slots=True)
class Quality:
    brightness: float
    """Mean of the picture, 0 black to 1 white."""
    sharpness: float
    """Mean absolute Laplacian, on the same scale; falls with focus and contrast."""
    saturated: float
    """Share of values at full scale."""
    rows: int
    """Height in pixels; a strip may come short."""
    change: float | None = None
    """From the most alike of the last pictures (`model.change`); None where there was none."""


def measure(pixels: Tensor, white: int) -> list[Quality]:
    """Pixel values (B, C, H, W) -> one per picture."""
    image = pixels.float() / white
    gray = image.mean(dim=1, keepdim=True)
    # In bfloat16 its own rounding would make a blurred picture look sharp.
    with torch.autocast(pixels.device.type, enabled=False):
        laplacian = F.conv2d(gray, _LAPLACIAN.to(gray))
    measures = torch.stack(
        (
            gray.mean(dim=(1, 2, 3)),
            laplacian.abs().mean(dim=(1, 2, 3)),
            (image >= 1.0).float().mean(dim=(1, 2, 3)),
        ),
        dim=1,
    )
    rows = image.shape[2]
    return [
        Quality(brightness, sharpness, saturated, rows)
        for brightness, sharpness, saturated in measures.tolist()
    ]


_LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


def learn(normal: list[Quality]) -> QualityLimits:
    """Limits half-way between the worst normal picture and the failure itself."""
    return QualityLimits(
        brightness_low=min(q.brightness for q in normal) / 2,
        brightness_high=(1 + max(q.brightness for q in normal)) / 2,
        sharpness_low=min(q.sharpness for q in normal) / 2,
        saturated_high=(1 + max(q.saturated for q in normal)) / 2,
        # Without two pictures to compare, only an exact repetition is known to be one.
        change_low=min((q.change for q in normal if q.change is not None), default=0.0) / 2,
        rows_low=min(q.rows for q in normal),
    )


def fault(limits: QualityLimits, quality: Quality) -> Judgement | None:
    """What keeps the picture from being judged; None for a sound one."""
    if quality.rows < limits.rows_low:
        return Judgement.INCOMPLETE
    sound = (
        limits.brightness_low <= quality.brightness <= limits.brightness_high
        and quality.sharpness >= limits.sharpness_low
        and quality.saturated <= limits.saturated_high
        and (quality.change is None or quality.change > limits.change_low)
    )
    return None if sound else Judgement.IMAGE_QUALITY
