"""The paper's equations once more, in plain numpy, float64 and loops: what the model is held to.

Nothing of the model is imported here. `numbers` are a module's parameters and buffers by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = Mapping[str, Array]
PATCH = 64


def numbers_of(module: Any, prefix: str = "") -> dict[str, Array]:
    """The state of a torch module under a prefix, in float64."""
    return {
        name.removeprefix(prefix): np.array(tensor.detach().numpy(), np.float64)
        for name, tensor in module.state_dict().items()
        if name.startswith(prefix)
    }


# Section 3.4: memory and gates


def address(z: Array, items: Array, temperature: float) -> Array:
    """Eq. 2, (C,) and (N, C) -> (N,); `temperature` 1 is the printed form."""
    exponentials = np.zeros(len(items))
    for i, m in enumerate(items):
        cosine = sum(z * m) / (np.sqrt(sum(z * z)) * np.sqrt(sum(m * m)))
        exponentials[i] = np.exp(temperature * cosine)
    return exponentials / sum(exponentials)


def shrink(w: Array) -> Array:
    """Eq. 3 and the renormalisation under it, (N,) -> (N,)."""
    n = len(w)
    shrunk = np.zeros(n)
    for i in range(n):
        shrunk[i] = max(w[i] - 1 / n, 0.0) * w[i] / (abs(w[i] - 1 / n) + 1e-12)
    if sum(shrunk) == 0.0:
        shrunk[int(np.argmax(w))] = 1.0
    return shrunk / sum(shrunk)


def recall(weights: Array, items: Array) -> Array:
    """Eq. 4."""
    z_hat = np.zeros(items.shape[1])
    for weight, item in zip(weights, items, strict=True):
        z_hat += weight * item
    return z_hat


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    return np.exp(x) / sum(np.exp(x))


def repair(z: Array, z_hat: Array, gates: Numbers, sigma: Callable[[Array], Array]) -> Array:
    """Eqs. 6-10 as the reading notes untangle their symbols."""
    both = np.array([*z, *z_hat])
    f = sigma(gates["forget.weight"] @ both + gates["forget.bias"])
    i = sigma(gates["input.weight"] @ both + gates["input.bias"])
    c = np.tanh(gates["candidate.weight"] @ both + gates["candidate.bias"])
    return np.asarray(f * z + i * c)


# Section 3.3: Table I


def convolve(x: Array, kernel: Array, stride: int, pad: int) -> Array:
    """(C, H, W) and (D, C, k, k) -> (D, H', W'), tap by tap of the kernel."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height = (padded.shape[1] - size) // stride + 1
    width = (padded.shape[2] - size) // stride + 1
    out = np.zeros((len(kernel), height, width))
    for u in range(size):
        for v in range(size):
            under = padded[:, u : u + stride * height : stride, v : v + stride * width : stride]
            out += np.tensordot(kernel[:, :, u, v], under, 1)
    return out


def deconvolve(x: Array, kernel: Array, stride: int, pad: int) -> Array:
    """(C, H, W) and (C, D, k, k) -> (D, H', W'): each value spreads over a k x k square."""
    size = kernel.shape[-1]
    _, height, width = x.shape
    out = np.zeros((kernel.shape[1], (height - 1) * stride + size, (width - 1) * stride + size))
    for u in range(size):
        for v in range(size):
            spread = np.tensordot(kernel[:, :, u, v].T, x, 1)
            out[:, u : u + stride * height : stride, v : v + stride * width : stride] += spread
    return out[:, pad : out.shape[1] - pad, pad : out.shape[2] - pad]


def batch_norm(x: Array, numbers: Numbers, layer: str) -> Array:
    mean, var = numbers[f"{layer}.1.running_mean"], numbers[f"{layer}.1.running_var"]
    weight, bias = numbers[f"{layer}.1.weight"], numbers[f"{layer}.1.bias"]
    out = np.zeros_like(x)
    for c in range(len(x)):
        out[c] = (x[c] - mean[c]) / np.sqrt(var[c] + 1e-5) * weight[c] + bias[c]
    return out


def leaky(x: Array) -> Array:
    return np.asarray(np.where(x > 0, x, 0.2 * x))


def features(image: Array, encoder: Numbers, outer: bool = False) -> tuple[Array, Array, Array]:
    """(C, H, W) -> scales 1, 2 and 3. `outer`: an activation after the first layer as well."""
    f1 = convolve(image, encoder["e1.0.weight"], 2, 1)
    f1 = leaky(f1) if outer else f1
    f2 = leaky(batch_norm(convolve(f1, encoder["e2.0.weight"], 1, 1), encoder, "e2"))
    f3 = leaky(batch_norm(convolve(f2, encoder["e3.0.weight"], 2, 1), encoder, "e3"))
    return f1, f2, f3


def encode(patch: Array, encoder: Numbers, outer: bool = False) -> Array:
    """(C, 64, 64) -> (latent,)."""
    x = features(patch, encoder, outer)[2]
    for layer in ("e4", "e5"):
        x = leaky(batch_norm(convolve(x, encoder[f"{layer}.0.weight"], 2, 1), encoder, layer))
    return convolve(x, encoder["e6.0.weight"], 1, 0)[:, 0, 0]


def decode(code: Array, decoder: Numbers, outer: bool = False) -> Array:
    """(latent,) -> (C, 64, 64)."""
    x = deconvolve(code[:, None, None], decoder["d1.0.weight"], 1, 0)
    if outer:
        x = np.maximum(batch_norm(x, decoder, "d1"), 0)
    for layer, stride in (("d2", 2), ("d3", 2), ("d4", 2), ("d5", 1)):
        x = deconvolve(x, decoder[f"{layer}.0.weight"], stride, 1)
        x = np.maximum(batch_norm(x, decoder, layer), 0)
    return np.tanh(deconvolve(x, decoder["d6.0.weight"], 2, 1))


# Section 3.5: the defect map


def bilinear(x: Array, height: int, width: int) -> Array:
    """(C, h, w) -> (C, H, W), pixel centres on half numbers (align_corners=False)."""
    channels, rows, columns = x.shape
    tall = np.zeros((channels, height, columns))
    for i in range(height):
        y = max((i + 0.5) * rows / height - 0.5, 0.0)
        upper = int(y)
        lower, share = min(upper + 1, rows - 1), y - upper
        tall[:, i] = (1 - share) * x[:, upper] + share * x[:, lower]
    out = np.zeros((channels, height, width))
    for j in range(width):
        at = max((j + 0.5) * columns / width - 0.5, 0.0)
        left = int(at)
        right, share = min(left + 1, columns - 1), at - left
        out[:, :, j] = (1 - share) * tall[:, :, left] + share * tall[:, :, right]
    return out


def msfr(
    scales: tuple[Array, ...],
    repaired: tuple[Array, ...],
    height: int,
    width: int,
    fields: tuple[float, ...] = (4 * 4, 8 * 8, 14 * 14),
) -> Array:
    """Eq. 14; `fields` are the areas H' x W' of the receptive fields, or other weights."""
    total = np.zeros((height, width))
    for field, f, f_repaired in zip(fields, scales, repaired, strict=True):
        total += field * bilinear((f - f_repaired) ** 2, height, width).mean(axis=0)
    return total / sum(fields)


# Patches


def starts(length: int, stride: int) -> list[int]:
    """Every `stride` pixels, and a last one flush with the edge."""
    found = [0]
    while found[-1] + PATCH < length:
        found.append(min(found[-1] + stride, length - PATCH))
    return found


def average(patches: list[Array], corners: list[tuple[int, int]], height: int, width: int) -> Array:
    """(C, 64, 64) each -> (C, H, W): the mean of all patches over a pixel."""
    total, count = np.zeros((len(patches[0]), height, width)), np.zeros((height, width))
    for patch, (y, x) in zip(patches, corners, strict=True):
        total[:, y : y + PATCH, x : x + PATCH] += patch
        count[y : y + PATCH, x : x + PATCH] += 1
    return total / count
