"""The threshold, from normal images only, to a false-reject budget that the operator sets.

The threshold is an order statistic of the images' scores (the largest value of each defect map):
with n images and budget a, rank ceil((n + 1)(1 - a)) keeps the expected share of good images over
it at or under a, whatever the scores' distribution. Where that rank is beyond n there are too few.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from model.bundle import Bundle
from model.calibration import Calibration, Dtype, Histogram
from model.change import Lately
from model.engine import Engine, Scored
from model.quality import Quality, learn
from training.errors import DataError
from training.images import Watch, read_normals

CONFIDENCE = 0.95
HISTOGRAM_STEPS = 32
ROUNDING = 1e-6  # what float32 may leave of a measure that is 0


def images_needed(false_reject_rate: float) -> int:
    """The least n whose order statistic exists: 999 for a rate of 0.001."""
    return math.ceil(1 / false_reject_rate - 1 - 1e-9)


def rank_of(images: int, false_reject_rate: float) -> int:
    """1-based; beyond `images` where those are too few."""
    return math.ceil((images + 1) * (1 - false_reject_rate) - 1e-9)


def upper_bound(images: int, rank: int, confidence: float = CONFIDENCE) -> float:
    """The true false-reject rate is under this with the given confidence.

    The share of the distribution above the rank-th of n order statistics is Beta(n - rank + 1,
    rank); exact for scores of any continuous distribution.
    """
    return float(stats.beta.ppf(confidence, images - rank + 1, rank))


def calibrate(
    bundle: Bundle,
    data: Path,
    false_reject_rate: float,
    dtype: Dtype,
    device: str,
    camera: str,
    recipe: str,
    watch: Watch,
) -> tuple[Calibration, float]:
    """The calibration, and the milliseconds that an image took.

    Images that took part in the training are passed over. Raises DataError for too few, and for
    one that a camera which fails would show.
    """
    normals = read_normals(data, watch)
    fresh = [image for image in normals if image.fingerprint not in bundle.fingerprints]
    needed = images_needed(false_reject_rate)
    if len(fresh) < needed:
        taught = len(normals) - len(fresh)
        raise DataError(
            f"({taught} of {len(normals)} trained this bundle and cannot calibrate it) are too few",
            file=data,
            key="normal images",
            value=len(fresh),
            expected=f"{needed - len(fresh)} more for a false-reject rate of {false_reject_rate}",
        )
    engine = Engine(bundle, device, dtype)
    scored: list[Scored] = []
    lately = Lately()
    began = time.perf_counter()
    for done, image in enumerate(fresh):
        watch("scoring", done, len(fresh))
        (one,) = engine.score([image.pixels])
        _check(image.path, one.quality)
        changed = lately.change(image.pixels)
        scored.append(replace(one, quality=replace(one.quality, change=changed)))
    watch("scoring", len(fresh), len(fresh))
    ms_per_image = 1000 * (time.perf_counter() - began) / len(fresh)
    calibration = from_scores(
        scored, bundle.hash, false_reject_rate=false_reject_rate, dtype=dtype, camera=camera,
        recipe=recipe,
    )  # fmt: skip
    return calibration, ms_per_image


def _check(image: Path, quality: Quality) -> None:
    """Raises DataError where a limit learned from it would be one that no picture can fail."""
    for key, value, is_sound, problem, expected in (
        ("brightness", quality.brightness, quality.brightness > ROUNDING,
         "is that of a black picture", "above 0"),
        ("saturated", quality.saturated, quality.saturated < 1 - ROUNDING,
         "is that of an all-white picture", "under 1"),
        ("sharpness", quality.sharpness, quality.sharpness > ROUNDING,
         "is that of a flat picture", "above 0"),
    ):  # fmt: skip
        if not is_sound:
            raise DataError(
                problem,
                file=image,
                key=key,
                value=value,
                expected=f"{expected} in a normal image; take it out of train/good",
            )


def from_scores(
    scored: Sequence[Scored],
    bundle_hash: str,
    *,
    false_reject_rate: float,
    dtype: Dtype,
    camera: str,
    recipe: str,
) -> Calibration:
    scores = np.sort([s.score for s in scored])
    if not np.isfinite(scores).all():
        raise DataError(
            "is not a number for some normal image", key="score", expected="a sound bundle"
        )
    rank = rank_of(len(scores), false_reject_rate)
    threshold = float(scores[rank - 1])
    counts, edges = np.histogram(scores, bins=HISTOGRAM_STEPS)
    return Calibration(
        bundle=bundle_hash,
        dtype=dtype,
        camera=camera,
        recipe=recipe,
        false_reject_rate=false_reject_rate,
        images=len(scores),
        rank=rank,
        threshold=threshold,
        confidence=CONFIDENCE,
        bound=upper_bound(len(scores), rank),
        quality=learn([s.quality for s in scored]),
        histogram=Histogram(
            low=float(edges[0]), high=float(edges[-1]), counts=tuple(counts.tolist())
        ),
    )
