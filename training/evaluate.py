"""How good a bundle is on test images with masks.

Three rules for the decision per pixel are reported and never mixed: the threshold that gives the
best F1 (it looks at the masks), the calibrated one (it saw normal images only), and mean + 2.75
standard deviations of each image's own map.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.ports import Pixels
from model.bundle import Bundle
from model.calibration import Calibration, Dtype
from model.engine import Engine
from training.images import TestImage, Watch, list_tests
from training.metrics import Bools, Floats, aupro, auroc, f1_of, pixel_curve

SIGMAS = 2.75


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    f1_best: float
    f1_best_threshold: float
    f1_calibrated: float | None
    f1_mean_sigma: float
    average_precision: float
    auroc: float | None
    aupro: float | None


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    auroc: float | None
    """None where all images are of one class, as the calibrated ones without a calibration."""
    false_reject_rate: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class KindMetrics:
    images: int
    over_threshold: int | None
    f1_best: float | None
    """At the threshold that is best for this kind's images alone; None for normal images."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    normal_images: int
    defective_images: int
    threshold: float | None
    with_normal: PixelMetrics | None
    without_normal: PixelMetrics | None
    """None where no mask marks a pixel."""
    image: ImageMetrics
    kinds: dict[str, KindMetrics]
    ms_per_image: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judged:
    """One test image with its defect map."""

    test: TestImage
    score: float
    defect_map: Floats
    mask: Bools


Look = Callable[[Judged, Pixels], None]


def evaluate(
    bundle: Bundle,
    calibration: Calibration | None,
    data: Path,
    device: str,
    watch: Watch,
    look: Look = lambda *_: None,
) -> Evaluation:
    """`look` sees every judged image with its pixels. Raises DataError, ImageFileError."""
    dtype: Dtype = "float32" if calibration is None else calibration.dtype
    engine = Engine(bundle, device, dtype)
    tests = list_tests(data)
    judged, seconds = [], 0.0
    for done, test in enumerate(tests):
        watch("scoring", done, len(tests))
        pixels = test.read()
        mask = test.read_mask(pixels.shape)
        began = time.perf_counter()
        (scored,) = engine.score([pixels])
        seconds += time.perf_counter() - began
        judged.append(Judged(test, scored.score, scored.defect_map, mask))
        look(judged[-1], pixels)
    watch("scoring", len(tests), len(tests))
    threshold = None if calibration is None else calibration.threshold
    defective = [j for j in judged if j.test.mask is not None]
    measured = []
    for done, chosen in enumerate((judged, defective)):
        watch("measuring", done, 3)
        measured.append(_pixels(chosen, threshold))
    watch("measuring", 2, 3)
    kinds = _kinds(judged, threshold)
    watch("measuring", 3, 3)
    return Evaluation(
        normal_images=len(judged) - len(defective),
        defective_images=len(defective),
        threshold=threshold,
        with_normal=measured[0],
        without_normal=measured[1],
        image=_images(judged, threshold),
        kinds=kinds,
        ms_per_image=1000 * seconds / len(tests),
    )


def _pixels(judged: Sequence[Judged], threshold: float | None) -> PixelMetrics | None:
    if not any(j.mask.any() for j in judged):
        return None
    truth = np.concatenate([j.mask.ravel() for j in judged])
    scores = np.concatenate([j.defect_map.ravel() for j in judged])
    own = np.concatenate(
        [(m > m.mean() + SIGMAS * m.std()).ravel() for m in (j.defect_map for j in judged)]
    )
    curve = pixel_curve(truth, scores)
    return PixelMetrics(
        f1_best=curve.best.f1,
        f1_best_threshold=curve.best.threshold,
        f1_calibrated=None if threshold is None else f1_of(truth, scores > threshold),
        f1_mean_sigma=f1_of(truth, own),
        average_precision=curve.average_precision,
        auroc=auroc(truth, scores),
        aupro=aupro([j.mask for j in judged], [j.defect_map for j in judged]),
    )


def _images(judged: Sequence[Judged], threshold: float | None) -> ImageMetrics:
    scores = np.array([j.score for j in judged], np.float32)
    defective = np.array([j.test.mask is not None for j in judged])

    def share_over(chosen: Bools) -> float | None:
        if threshold is None or not chosen.any():
            return None
        return float((scores[chosen] > threshold).mean())

    return ImageMetrics(auroc(defective, scores), share_over(~defective), share_over(defective))


def _kinds(judged: Sequence[Judged], threshold: float | None) -> dict[str, KindMetrics]:
    kinds: dict[str, list[Judged]] = {}
    for one in judged:
        kinds.setdefault(one.test.kind, []).append(one)
    return {kind: _kind(members, threshold) for kind, members in kinds.items()}


def _kind(members: Sequence[Judged], threshold: float | None) -> KindMetrics:
    truth = np.concatenate([j.mask.ravel() for j in members])
    scores = np.concatenate([j.defect_map.ravel() for j in members])
    return KindMetrics(
        images=len(members),
        over_threshold=None if threshold is None else sum(j.score > threshold for j in members),
        f1_best=pixel_curve(truth, scores).best.f1 if truth.any() else None,
    )
