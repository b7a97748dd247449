"""Encoder and decoder as Table I prints them (section 3.3)."""

from torch import Tensor, nn

from model.settings import NetworkSettings

SLOPE = 0.2  # of the LeakyReLU, Table I


class Encoder(nn.Module):
    """Six convolutions from a 64x64 patch to one latent vector.

    `scales` gives the outputs of the first three layers, which section 3.5 compares; they are
    fully convolutional and take an image of any size.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.e1 = _conv(settings.channels, 32, 4, 2, 1, norm=False, act=settings.outer_activation)
        self.e2 = _conv(32, 32, 3, 1, 1)
        self.e3 = _conv(32, 64, 4, 2, 1)
        self.e4 = _conv(64, 128, 4, 2, 1)
        self.e5 = _conv(128, 256, 4, 2, 1)
        self.e6 = _conv(256, settings.latent, 4, 1, 0, norm=False, act=False)

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> (B, 32, H/2, W/2), (B, 32, H/2, W/2), (B, 64, H/4, W/4)."""
        f1 = self.e1(x)
        f2 = self.e2(f1)
        return f1, f2, self.e3(f2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 64, 64) -> (B, latent)."""
        z: Tensor = self.e6(self.e5(self.e4(self.scales(x)[2])))
        return z.flatten(1)


class Decoder(nn.Module):
    """The mirror of the encoder; its Tanh gives an image in [-1, 1]."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        outer = settings.outer_activation
        self.d1 = _deconv(settings.latent, 256, 4, 1, 0, norm=outer, act=outer)
        self.d2 = _deconv(256, 128, 4, 2, 1)
        self.d3 = _deconv(128, 64, 4, 2, 1)
        self.d4 = _deconv(64, 32, 4, 2, 1)
        self.d5 = _deconv(32, 32, 3, 1, 1)
        self.d6 = nn.Sequential(
            nn.ConvTranspose2d(32, settings.channels, 4, 2, 1, bias=False), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, C, 64, 64)."""
        x = z[:, :, None, None]
        for layer in (self.d1, self.d2, self.d3, self.d4, self.d5, self.d6):
            x = layer(x)
        return x


def initialise(module: nn.Module) -> None:
    """GANomaly's start: N(0, 0.02) for convolutions, N(1, 0.02) for batch-norm scales."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _conv(
    before: int,
    after: int,
    kernel: int,
    stride: int,
    pad: int,
    *,
    norm: bool = True,
    act: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, pad, bias=False)]
    if norm:
        layers.append(nn.BatchNorm2d(after))
    if act:
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)


def _deconv(
    before: int,
    after: int,
    kernel: int,
    stride: int,
    pad: int,
    *,
    norm: bool = True,
    act: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ConvTranspose2d(before, after, kernel, stride, pad, bias=False)]
    if norm:
        layers.append(nn.BatchNorm2d(after))
    if act:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
