"""The multi-scale feature residual (section 3.5): how far an image is from its repaired self."""

import torch.nn.functional as F
from torch import Tensor

from model.network import Encoder
from model.settings import ResidualSettings

RECEPTIVE_FIELDS = (4, 8, 14)  # of the encoder's first three layers, in pixels
WEIGHTS = {
    "receptive_field": tuple(
        rf**2 / sum(r**2 for r in RECEPTIVE_FIELDS) for rf in RECEPTIVE_FIELDS
    ),
    "equal": (1 / 3, 1 / 3, 1 / 3),
    "scale1": (1.0, 0.0, 0.0),
}


def defect_map(
    encoder: Encoder, image: Tensor, repaired: Tensor, settings: ResidualSettings
) -> Tensor:
    """(B, C, H, W), (B, C, H, W) -> (B, H, W), zero where both agree. Eq. 14."""
    if settings.residual == "pixels":
        return (image - repaired).square().mean(dim=1)
    size = image.shape[-2:]
    total = image.new_zeros(image.shape[0], *size)
    scales = zip(
        WEIGHTS[settings.weights], encoder.scales(image), encoder.scales(repaired), strict=True
    )
    for weight, f, f_repaired in scales:
        if weight == 0.0:
            continue
        # The mean over channels before the up-sampling: both are linear, and this one is 32 times
        # less to interpolate.
        residual = (f - f_repaired).square().mean(dim=1, keepdim=True)
        total += weight * F.interpolate(residual, size=size, mode="bilinear").squeeze(1)
    return total
