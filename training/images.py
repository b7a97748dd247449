"""Data folders in the MVTec AD layout, and how a surface's normal images are shared out.

DATA/train/good/*            normal images
DATA/test/good/*             normal images to judge on
DATA/test/<kind>/*           defective ones
DATA/ground_truth/<kind>/*   their masks, under the image's own name (or NAME_mask)
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.image_files import SUFFIXES, list_images, read_image, to_channels
from adapters.ports import Pixels
from model.settings import PATCH
from training.errors import DataError

GOOD = "good"
Watch = Callable[[str, int, int], None]
"""Told (what, done, of how many) as long work goes on."""


@dataclass(frozen=True, slots=True)
class Normal:
    path: Path
    pixels: Pixels
    fingerprint: str
    """Of the picture as it was read, not of its file: a copy under another name is the same."""

    @staticmethod
    def of(path: Path, pixels: Pixels) -> "Normal":
        content = repr(pixels.shape).encode() + pixels.tobytes()
        return Normal(path, pixels, hashlib.sha256(content).hexdigest()[:16])

    def in_channels(self, channels: int) -> "Normal":
        return Normal(self.path, to_channels(self.pixels, channels), self.fingerprint)


@dataclass(frozen=True, slots=True)
class TestImage:
    path: Path
    kind: str
    mask: Path | None
    """None for a normal image."""

    __test__ = False  # not a test of pytest's

    def read(self) -> Pixels:
        return checked(self.path)

    def read_mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """(H, W), True on the defect. Raises DataError where it is of another size."""
        if self.mask is None:
            return np.zeros(shape[:2], bool)
        mask: NDArray[np.bool_] = read_image(self.mask).max(axis=2) > 0
        if mask.shape != shape[:2]:
            raise DataError(
                "is a mask of another size than its image",
                file=self.mask,
                value=f"{mask.shape[1]}x{mask.shape[0]}",
                expected=f"{shape[1]}x{shape[0]}",
            )
        return mask


def read_normals(data: Path, watch: Watch = lambda *_: None) -> list[Normal]:
    """The normal images of DATA/train/good, in name order, all of one data type and channel count.

    Gray pictures among colour ones become colour. Raises DataError or ImageFileError.
    """
    folder = data / "train" / GOOD
    if not data.is_dir():
        raise DataError("does not exist", file=data, expected="a data folder (MVTec AD layout)")
    if not folder.is_dir():
        raise DataError("has no normal images", file=data, expected="images in train/good")
    images = [
        Normal.of(path, checked(path)) for path in watched(list_images(folder), "reading", watch)
    ]
    for image in images:
        if image.pixels.dtype != images[0].pixels.dtype:
            raise DataError(
                "is of another data type than the images before it",
                file=image.path,
                value=str(image.pixels.dtype),
                expected=str(images[0].pixels.dtype),
            )
    channels = max(image.pixels.shape[2] for image in images)
    return [image.in_channels(channels) for image in images]


def list_tests(data: Path) -> list[TestImage]:
    """Raises DataError where there is no test image, or where a defective one has no mask."""
    root = data / "test"
    kinds = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not kinds:
        raise DataError("has no test images", file=data, expected="folders in test/")
    return [
        TestImage(path, folder.name, _mask(data, folder.name, path))
        for folder in kinds
        for path in list_images(folder)
    ]


def checked(path: Path) -> Pixels:
    """An image that is at least one patch large."""
    image = read_image(path)
    height, width = image.shape[:2]
    if height < PATCH or width < PATCH:
        raise DataError(
            "is smaller than a patch",
            file=path,
            value=f"{width}x{height}",
            expected=f"at least {PATCH}x{PATCH} pixels",
        )
    return image


@dataclass(frozen=True, slots=True)
class Shares:
    """Normal images by their use. What trains or stops a model never calibrates it."""

    learn: Sequence[Normal]
    hold_out: Sequence[Normal]
    calibrate: Sequence[Normal]


def share_out(images: Sequence[Normal], calibration_share: float) -> Shares:
    """Shared out by fingerprint, so that every run and machine shares them out alike.

    A tenth of what is not kept for the calibration is held out of learning, to stop it in time.
    Raises DataError where there are too few for every use.
    """
    ordered = sorted(images, key=lambda image: image.fingerprint)
    kept = round(len(ordered) * calibration_share)
    held = max(1, round((len(ordered) - kept) * 0.1))
    if len(ordered) - kept - held < 1:
        raise DataError(
            "are too few normal images",
            key="train/good",
            value=len(ordered),
            expected=f"at least {kept + held + 1} with calibration share {calibration_share}",
        )
    return Shares(ordered[kept + held :], ordered[kept : kept + held], ordered[:kept])


def _mask(data: Path, kind: str, image: Path) -> Path | None:
    if kind == GOOD:
        return None
    folder = data / "ground_truth" / kind
    for stem in (image.stem, f"{image.stem}_mask"):
        for suffix in SUFFIXES:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    raise DataError("has no mask", file=image, expected=f"{folder / image.stem}.png")


def watched(paths: Sequence[Path], what: str, watch: Watch) -> Iterator[Path]:
    """The paths, while `watch` is told how far their reader has come."""
    for done, path in enumerate(paths):
        watch(what, done, len(paths))
        yield path
    watch(what, len(paths), len(paths))
