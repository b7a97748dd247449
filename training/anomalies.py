"""GAAGA, the general artificial anomaly generation algorithm (section 3.2, eq. 1).

Two modes: `paper` pastes one crop of a natural image and one blurred crop of the product, opaque
squares half the window wide, as printed (256 on 512). `rich` varies shape, size, edge and opacity,
and takes the product's own texture as well; the paper's conclusion names the edges as a weakness.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adapters.image_files import list_images, read_image, to_channels
from adapters.ports import Pixels
from training.images import Watch, watched
from training.settings import AnomalySettings

Rng = np.random.Generator
Floats = NDArray[Any]
"""(H, W, C) float32 in 0..255, or a mask (H, W) in 0..1."""

BLUR_SIGMA = (2.0, 8.0)  # pixels; the paper says only "blur"
LEAST_CHANGE = 4.0  # of 255: what the truth counts as changed
NATURAL_SIDE = 512  # natural images are kept no larger than this


@dataclass(frozen=True, slots=True)
class Anomaly:
    pixels: Pixels  # (H, W, C)
    mask: NDArray[np.bool_]  # (H, W): where the picture was visibly changed


class Natural:
    """Crops of anything but the product: of photographs, or procedural where none are named."""

    def __init__(self, folder: Path | None, channels: int, watch: Watch = lambda *_: None) -> None:
        """Raises ImageFileError where the folder holds no image or one that cannot be read."""
        paths = [] if folder is None else watched(list_images(folder), "photographs", watch)
        self._channels = channels
        self._photographs = [_at_most(_eight_bit(read_image(p)), NATURAL_SIDE) for p in paths]
        count = len(self._photographs)
        self.name = f"{count} photographs" if count else "procedural textures"
        digest = hashlib.sha256()
        for photograph in self._photographs:
            digest.update(photograph.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def crop(self, side: int, rng: Rng) -> Floats:
        """(side, side, C) in 0..255."""
        if not self._photographs:
            return _procedural(side, self._channels, rng)
        photograph = self._photographs[rng.integers(len(self._photographs))]
        piece = to_channels(_random_square(photograph, side, rng), self._channels)
        return _resize(piece, side)


class Gaaga:
    def __init__(self, settings: AnomalySettings, natural: Natural, white: int) -> None:
        """`white` is the pixel value of full scale, as in the model's settings."""
        self.settings, self.natural, self.white = settings, natural, white

    def corrupt(self, image: Pixels, own: Pixels, rng: Rng) -> Anomaly:
        """A corrupted copy of `image`; `own` is any normal picture of the same product."""
        clean = image.astype(np.float32) * (255.0 / self.white)
        other = own.astype(np.float32) * (255.0 / self.white)
        paste = _paste_paper if self.settings.gaaga == "paper" else _paste_rich
        dirty = np.clip(paste(clean.copy(), other, self.natural, rng), 0.0, 255.0)
        changed = (np.abs(dirty - clean).max(axis=2) > LEAST_CHANGE).astype(np.uint8)
        # Closed: a pixel that happens to keep its value inside an anomaly belongs to it.
        mask = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
        pixels = np.where(mask[:, :, None], dirty * (self.white / 255.0), image)
        return Anomaly(np.rint(pixels).astype(image.dtype), mask)


def _paste_paper(canvas: Floats, own: Floats, natural: Natural, rng: Rng) -> Floats:
    """Eq. 1: paste(I_p, crop(I_nl), blur(resize(crop(I_p))))."""
    side = min(canvas.shape[:2]) // 2
    blurred = _blur(
        _resize(_random_square(own, int(rng.integers(side // 4, side + 1)), rng), side), rng
    )
    for piece in (natural.crop(side, rng), blurred):
        y, x = (int(rng.integers(0, length - side + 1)) for length in canvas.shape[:2])
        canvas[y : y + side, x : x + side] = piece
    return canvas


def _paste_rich(canvas: Floats, own: Floats, natural: Natural, rng: Rng) -> Floats:
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        side = int(np.exp(rng.uniform(np.log(8), np.log(min(height, width) / 2))))
        shape = _SHAPES[int(rng.integers(len(_SHAPES)))](side, rng)
        if rng.random() < 0.7:
            shape = cv2.GaussianBlur(shape, (0, 0), float(rng.uniform(0.5, 3.0)))
        y, x = (int(rng.integers(0, length - side + 1)) for length in (height, width))
        under = canvas[y : y + side, x : x + side]
        filling = _filling(under, own, natural, rng)
        alpha = shape[:, :, None] * np.float32(rng.uniform(0.15, 1.0))
        if rng.random() < 0.15:
            filling = _poisson(filling, under, shape)
        canvas[y : y + side, x : x + side] = under + alpha * (filling - under)
    return canvas


def _filling(under: Floats, own: Floats, natural: Natural, rng: Rng) -> Floats:
    """What stands in the anomaly's place, of the size of what it covers."""
    side = under.shape[0]
    kind = rng.random()
    if kind < 0.4:
        return natural.crop(side, rng)
    if kind < 0.6:  # a change of brightness: dirt, dents, oil
        return under * np.float32(rng.uniform(0.4, 1.6)) + np.float32(rng.uniform(-40, 40))
    if kind < 0.8:  # the product's own texture, displaced and turned
        return np.rot90(_resize(_random_square(own, side, rng), side), int(rng.integers(4))).copy()
    return _blur(under, rng)


def _ellipse(side: int, rng: Rng) -> Floats:
    mask = np.zeros((side, side), np.float32)
    axes = (max(1, int(side * rng.uniform(0.1, 0.5))), max(1, int(side * rng.uniform(0.1, 0.5))))
    angle = float(rng.uniform(0, 180))
    return cv2.ellipse(mask, (side // 2, side // 2), axes, angle, 0, 360, 1.0, -1)


def _line(side: int, rng: Rng) -> Floats:
    """Thin, 1 to 4 pixels, slightly bent."""
    mask = np.zeros((side, side), np.float32)
    ends = rng.uniform(0, side, size=(2, 2))
    middle = ends.mean(axis=0) + rng.normal(0, side / 10, size=2)
    bent = np.rint(np.stack((ends[0], middle, ends[1]))).astype(np.int32)
    return cv2.polylines(mask, [bent], False, 1.0, int(rng.integers(1, 5)), cv2.LINE_AA)


def _blob(side: int, rng: Rng) -> Floats:
    """Thresholded smooth noise, faded out before the box's edge."""
    noise = _smooth_noise(side, 1, rng)[:, :, 0]
    across = np.hanning(side).astype(np.float32)
    return (noise * np.sqrt(np.outer(across, across)) > rng.uniform(0.25, 0.5)).astype(np.float32)


_SHAPES: Sequence[Callable[[int, Rng], Floats]] = (_ellipse, _line, _blob)


def _procedural(side: int, channels: int, rng: Rng) -> Floats:
    """Noise of some octaves, or stripes, in random colours: a stand-in for photographs."""
    texture = sum(
        _smooth_noise(side, channels, rng, cells) * np.float32(1 / octave)
        for octave, cells in enumerate(rng.integers(2, 40, size=3), start=1)
    ) / np.float32(1.83)
    if rng.random() < 0.3:
        y, x = np.mgrid[:side, :side].astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(3, side / 2)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
        texture = 0.4 * texture + 0.3 * (1 + wave[:, :, None])
    low, high = rng.uniform(0, 255, size=(2, channels))
    filled: Floats = (low + (high - low) * texture).astype(np.float32)
    return filled


def _smooth_noise(side: int, channels: int, rng: Rng, cells: int = 4) -> Floats:
    """(side, side, channels) in 0..1."""
    coarse = rng.random((cells + 1, cells + 1, channels), dtype=np.float32)
    return np.clip(_resize(coarse, side), 0.0, 1.0)


def _poisson(filling: Floats, under: Floats, shape: Floats) -> Floats:
    """The filling with its gradients kept and its edge fitted to what lies around it."""
    side = under.shape[0]
    inside = np.zeros((side, side), np.uint8)
    inside[2:-2, 2:-2] = 255 * (shape[2:-2, 2:-2] > 0.5)
    x, y, width, height = cv2.boundingRect(inside)
    if min(width, height) < 4:  # OpenCV solves for the inside of the box, and fails without one
        return filling
    source, target = (to_channels(_bytes(a), 3) for a in (filling, under))
    centre = (x + width // 2, y + height // 2)
    cloned = cv2.seamlessClone(source, target, inside, centre, cv2.NORMAL_CLONE)
    return to_channels(cloned, under.shape[2]).astype(np.float32)


def _random_square(image: NDArray[Any], side: int, rng: Rng) -> Floats:
    side = min(side, *image.shape[:2])
    y, x = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return image[y : y + side, x : x + side]


def _resize(image: Floats, side: int) -> Floats:
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return resized.reshape(side, side, -1).astype(np.float32)


def _blur(image: Floats, rng: Rng) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(*BLUR_SIGMA))).reshape(image.shape)


def _bytes(image: Floats) -> Pixels:
    return np.clip(image, 0, 255).astype(np.uint8)


def _eight_bit(image: Pixels) -> Pixels:
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _at_most(image: Pixels, side: int) -> Pixels:
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    smaller = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return smaller.reshape(*smaller.shape[:2], -1)
