"""Every choice that makes a model what it is, with the paper's printed form always reachable.

The defaults follow our reading of the paper where it leaves a gap or prints what cannot be meant;
`PRINTED` is the letter of it. No torch here: the daemon's own process reads these.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PATCH = 64
"""Side of a patch in pixels. Table I's encoder maps it to a single latent position."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkSettings(Settings):
    """Table I."""

    channels: Literal[1, 3] = 3
    latent: int = Field(default=512, ge=8)
    outer_activation: bool = False
    """Activation (and, in the decoder, batch-norm) on the first layer of each half, where Table I
    has none and the network it descends from (GANomaly) has both."""


class MemorySettings(Settings):
    """Section 3.4."""

    items: int = Field(default=500, ge=2)
    temperature: float = Field(default=10.0, gt=0)
    """Factor on the cosines of eq. 2; the printed 1 leaves addressing close to uniform."""
    gates: Literal["sigmoid", "softmax"] = "sigmoid"
    """The sigma of eqs. 6 and 7; the printed softmax over 512 units has mean 1/512, erasing z."""


class ResidualSettings(Settings):
    """Section 3.5, eq. 14."""

    residual: Literal["features", "pixels"] = "features"
    """`pixels` is the squared difference of the images: the model without MSFR of Table IV."""
    weights: Literal["receptive_field", "equal", "scale1"] = "receptive_field"
    scope: Literal["image", "patch"] = "image"
    """Whether features are taken from the stitched image (no seams) or patch by patch."""


class ModelSettings(Settings):
    network: NetworkSettings = NetworkSettings()
    memory: MemorySettings = MemorySettings()
    residual: ResidualSettings = ResidualSettings()
    stride: int = Field(default=PATCH, ge=8, le=PATCH)
    """Distance of neighbouring patches in pixels; under 64 they overlap and are averaged."""
    white: int = Field(default=255, ge=1, le=65535)
    """The pixel value of full scale: 255, or what a 10- to 16-bit camera saturates at."""


PRINTED = ModelSettings(memory=MemorySettings(temperature=1.0, gates="softmax"))
