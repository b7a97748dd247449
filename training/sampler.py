"""Patches for a training step: clean ones, and ones with an artificial anomaly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.ports import Pixels
from model.settings import PATCH
from training.anomalies import Anomaly, Gaaga
from training.images import Normal

WINDOW = 512  # pixels; the paper's image side, in which an anomaly is half as wide
PER_WINDOW = 16  # patches taken from one corrupted window


@dataclass(frozen=True, slots=True)
class Pairs:
    corrupted: Tensor  # (B, C, 64, 64), pixel values
    clean: Tensor  # the same places without the anomaly


class Sampler:
    def __init__(self, images: Sequence[Normal], gaaga: Gaaga, rng: np.random.Generator) -> None:
        self._images = [image.pixels for image in images]
        # Every pixel as likely as any other: large images give more patches.
        sizes = np.array([image.shape[0] * image.shape[1] for image in self._images], float)
        self._chance = sizes / sizes.sum()
        self._gaaga = gaaga
        self.rng = rng

    def clean(self, count: int) -> Tensor:
        """(count, C, 64, 64), pixel values."""
        return as_tensor([self.square(PATCH) for _ in range(count)])

    def square(self, side: int) -> Pixels:
        """(side, side, C) of a normal image, any place as likely as any other."""
        return self._square(self._any_image(), side)

    def pairs(self, count: int, clean_share: float) -> Pairs:
        """Patches that an anomaly touches, and a share of clean ones."""
        corrupted: list[Pixels] = []
        clean: list[Pixels] = []
        for _ in range(count - round(count * clean_share)):
            if len(corrupted) % PER_WINDOW == 0:
                window, anomaly = self.window()
            y, x = self.over(anomaly.mask)
            corrupted.append(anomaly.pixels[y : y + PATCH, x : x + PATCH])
            clean.append(window[y : y + PATCH, x : x + PATCH])
        untouched = [self.square(PATCH) for _ in range(count - len(clean))]
        return Pairs(as_tensor(corrupted + untouched), as_tensor(clean + untouched))

    def window(self) -> tuple[Pixels, Anomaly]:
        """A square of a normal image, and the same with an artificial anomaly in it."""
        image, own = (
            self._images[i] for i in self.rng.choice(len(self._images), 2, p=self._chance)
        )
        window = self._square(image, min(WINDOW, *image.shape[:2]))
        anomaly = self._gaaga.corrupt(window, own, self.rng)
        while not anomaly.mask.any():  # too faint to see: no anomaly
            anomaly = self._gaaga.corrupt(window, own, self.rng)
        return window, anomaly

    def _any_image(self) -> Pixels:
        return self._images[int(self.rng.choice(len(self._images), p=self._chance))]

    def _square(self, image: Pixels, side: int) -> Pixels:
        height, width = image.shape[:2]
        y = int(self.rng.integers(0, height - side + 1))
        x = int(self.rng.integers(0, width - side + 1))
        return image[y : y + side, x : x + side]

    def over(self, mask: NDArray[np.bool_]) -> tuple[int, int]:
        """The corner of a patch that holds a random pixel of the mask."""
        ys, xs = np.nonzero(mask)
        pick = int(self.rng.integers(len(ys)))
        corner = []
        for position, length in ((ys[pick], mask.shape[0]), (xs[pick], mask.shape[1])):
            low, high = max(0, position - PATCH + 1), min(position, length - PATCH)
            corner.append(int(self.rng.integers(low, high + 1)))
        return corner[0], corner[1]


def as_tensor(pixels: Sequence[Pixels]) -> Tensor:
    """Pictures (H, W, C) of one size -> (B, C, H, W) float32 in channels-last order."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
