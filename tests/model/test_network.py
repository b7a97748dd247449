"""Encoder and decoder are Table I, row by row, and compute what its rows mean."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from model.cma_ae import CmaAe
from model.network import Decoder, Encoder
from model.settings import MemorySettings, ModelSettings, NetworkSettings

Enliven = Callable[[nn.Module], None]
Row = tuple[str, int, int, int, tuple[int, int], bool, str]

# As printed: operation, kernel, stride, padding, feature maps, BN, activation.
ENCODER: list[Row] = [
    ("Conv2d", 4, 2, 1, (3, 32), False, ""),
    ("Conv2d", 3, 1, 1, (32, 32), True, "LeakyReLU"),
    ("Conv2d", 4, 2, 1, (32, 64), True, "LeakyReLU"),
    ("Conv2d", 4, 2, 1, (64, 128), True, "LeakyReLU"),
    ("Conv2d", 4, 2, 1, (128, 256), True, "LeakyReLU"),
    ("Conv2d", 4, 1, 0, (256, 512), False, ""),
]
DECODER: list[Row] = [
    ("ConvTranspose2d", 4, 1, 0, (512, 256), False, ""),
    ("ConvTranspose2d", 4, 2, 1, (256, 128), True, "ReLU"),
    ("ConvTranspose2d", 4, 2, 1, (128, 64), True, "ReLU"),
    ("ConvTranspose2d", 4, 2, 1, (64, 32), True, "ReLU"),
    ("ConvTranspose2d", 3, 1, 1, (32, 32), True, "ReLU"),
    ("ConvTranspose2d", 4, 2, 1, (32, 3), False, "Tanh"),
]


def _row(layer: nn.Module) -> Row:
    """Reads a layer off the module; convolution, then batch-norm, then activation."""
    first, *others = layer.children()
    assert isinstance(first, nn.Conv2d | nn.ConvTranspose2d)
    assert first.bias is None
    for pair in (first.kernel_size, first.stride, first.padding):
        assert pair[0] == pair[1]
    norm = bool(others) and isinstance(others[0], nn.BatchNorm2d)
    activations = others[1:] if norm else others
    assert len(activations) <= 1
    return (
        type(first).__name__,
        first.kernel_size[0],
        first.stride[0],
        int(first.padding[0]),
        (first.in_channels, first.out_channels),
        norm,
        type(activations[0]).__name__ if activations else "",
    )


def _rows(module: nn.Module) -> list[Row]:
    return [_row(layer) for layer in module.children()]


def _parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def full_size() -> CmaAe:
    return CmaAe(ModelSettings())


def test_layers_are_those_of_table_1(full_size: CmaAe) -> None:
    assert _rows(full_size.encoder) == ENCODER
    assert _rows(full_size.decoder) == DECODER


def test_every_leaky_relu_has_the_slope_of_table_1(full_size: CmaAe) -> None:
    slopes = {m.negative_slope for m in full_size.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}


def test_outer_activation_adds_what_ganomaly_has_and_nothing_else() -> None:
    settings = NetworkSettings(outer_activation=True)
    e1, *encoder = _rows(Encoder(settings))
    d1, *decoder = _rows(Decoder(settings))
    assert (e1, encoder) == ((*ENCODER[0][:5], False, "LeakyReLU"), ENCODER[1:])
    assert (d1, decoder) == ((*DECODER[0][:5], True, "ReLU"), DECODER[1:])


def test_parameters_are_as_many_as_the_reading_notes_count(full_size: CmaAe) -> None:
    assert round(_parameters(full_size.encoder) / 1e6, 2) == 2.80
    assert round(_parameters(full_size.decoder) / 1e6, 2) == 2.80
    assert round(_parameters(full_size.cmam.gates) / 1e6, 2) == 1.57
    assert _parameters(full_size.cmam.memory) == 500 * 512


def test_gates_are_three_layers_from_1024_to_512(full_size: CmaAe) -> None:
    layers = [m for m in full_size.cmam.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(1024, 512)] * 3
    assert all(m.bias is not None for m in layers)


def test_shapes_are_those_of_table_1(full_size: CmaAe) -> None:
    image = torch.zeros(2, 3, 64, 64)
    with torch.inference_mode():
        shapes = [tuple(scale.shape) for scale in full_size.encoder.scales(image)]
        z = full_size.eval().encoder(image)
        restored = full_size.decoder(z)
    assert shapes == [(2, 32, 32, 32), (2, 32, 32, 32), (2, 64, 16, 16)]
    assert z.shape == (2, 512)
    assert restored.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_and_decoder_compute_what_their_rows_mean(
    paper: ModuleType, enliven: Enliven, channels: int, outer: bool
) -> None:
    settings = NetworkSettings.model_validate(
        {"channels": channels, "latent": 16, "outer_activation": outer}
    )
    encoder, decoder = Encoder(settings).eval(), Decoder(settings).eval()
    enliven(encoder)
    enliven(decoder)
    patch = torch.rand(1, channels, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.inference_mode():
        z = encoder(patch)
        image = decoder(z)
    expected = paper.encode(patch[0].numpy(), paper.numbers_of(encoder), outer)
    np.testing.assert_allclose(z[0], expected, atol=1e-4)
    expected = paper.decode(z[0].numpy(), paper.numbers_of(decoder), outer)
    np.testing.assert_allclose(image[0], expected, atol=1e-4)


def test_the_decoder_never_leaves_the_range_of_its_tanh(enliven: Enliven) -> None:
    decoder = Decoder(NetworkSettings(channels=1, latent=16)).eval()
    enliven(decoder)
    with torch.inference_mode():
        image = decoder(torch.randn(4, 16, generator=torch.Generator().manual_seed(3)) * 1000)
    assert image.min() == -1
    assert image.max() == 1


def test_weights_start_as_ganomaly_s_do() -> None:
    torch.manual_seed(11)
    model = CmaAe(ModelSettings(memory=MemorySettings(items=50)))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            _assert_normal(module.weight, 0.0)
        elif isinstance(module, nn.BatchNorm2d):
            _assert_normal(module.weight, 1.0)
            assert not module.bias.any()
    _assert_normal(model.cmam.memory.items, 0.0)


def _assert_normal(tensor: torch.Tensor, mean: float) -> None:
    """Within five standard errors of N(mean, 0.02), and no uniform distribution either."""
    values, n = tensor.detach().flatten(), tensor.numel()
    assert abs(values.mean().item() - mean) < 5 * 0.02 / n**0.5
    assert abs(values.std().item() - 0.02) < 5 * 0.02 / (2 * n) ** 0.5
    if n > 1000:
        assert (values - mean).abs().max() > 2.5 * 0.02
