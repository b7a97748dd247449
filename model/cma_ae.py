"""The whole model (Fig. 2): encoder, memory and gates, decoder, and the defect map of an image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cmam import Cmam
from model.errors import FrameShapeError
from model.msfr import defect_map
from model.network import Decoder, Encoder, initialise
from model.patches import Grid, cut, stitch
from model.settings import PATCH, ModelSettings

AT_ONCE = 512
"""Patches in one pass: bounds the memory that a large frame takes (about 150 MB of activations)."""


class Repair(NamedTuple):
    patches: Tensor  # (B, C, 64, 64) in [-1, 1]: what the patches would be without defects
    weights: Tensor  # (B, N): the memory's addressing weights


class CmaAe(nn.Module):
    """Takes pixel values as the camera gives them; normalisation is inside."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings.network)
        self.cmam = Cmam(settings.memory, settings.network.latent)
        self.decoder = Decoder(settings.network)
        self.apply(initialise)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixel values 0..white -> [-1, 1], the range of the decoder's Tanh."""
        return pixels * (2.0 / self.settings.white) - 1.0

    def forward(self, patches: Tensor) -> Repair:
        """Normalised patches (B, C, 64, 64) -> their repaired form and the memory's weights."""
        code, weights = self.cmam(self.encoder(patches))
        return Repair(self.decoder(code), weights)

    def map(self, pixels: Tensor) -> Tensor:
        """Pixel values (B, C, H, W) of any size from 64x64 -> the defect map (B, H, W).

        Raises FrameShapeError for images under a patch, or of other channels than the model's.
        """
        if pixels.shape[1] != self.settings.network.channels:
            raise FrameShapeError(
                "does not fit this model",
                key="channels",
                value=pixels.shape[1],
                expected=f"{self.settings.network.channels}",
            )
        grid = Grid.over(pixels.shape[-2], pixels.shape[-1], PATCH, self.settings.stride)
        image = self.normalise(pixels)
        patches = cut(image, grid)
        repaired = torch.cat([self(some).patches for some in torch.split(patches, AT_ONCE)])
        residual = self.settings.residual
        if residual.scope == "patch":
            per_patch = defect_map(self.encoder, patches, repaired, residual)
            return stitch(per_patch[:, None], grid).squeeze(1)
        return defect_map(self.encoder, image, stitch(repaired, grid), residual)
