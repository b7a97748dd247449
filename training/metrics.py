"""How good a defect map is, against masks. Scikit-learn's definitions where it has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

AUPRO_LIMIT = 0.3  # false-positive rate up to which MVTec AD integrates


@dataclass(frozen=True, slots=True)
class F1:
    f1: float
    threshold: float


@dataclass(frozen=True, slots=True)
class PixelCurve:
    best: F1
    average_precision: float


def pixel_curve(truth: Bools, scores: Floats) -> PixelCurve:
    """Flat arrays of equal length -> eq. 17 at its best threshold, and the average precision."""
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    # As average_precision_score defines it, without sorting everything a second time.
    average_precision = float(-np.sum(np.diff(recall) * precision[:-1]))
    return PixelCurve(F1(float(f1[best]), float(thresholds[best])), average_precision)


def best_f1(truth: Bools, scores: Floats) -> F1:
    return pixel_curve(truth, scores).best


def f1_of(truth: Bools, found: Bools) -> float:
    """Eqs. 15-17 for one decision per pixel."""
    hit = int(np.count_nonzero(truth & found))
    return 2 * hit / max(1, int(truth.sum()) + int(found.sum()))


def auroc(truth: Bools, scores: Floats) -> float | None:
    """None where all are of one class."""
    return float(roc_auc_score(truth, scores)) if 0 < truth.sum() < truth.size else None


def aupro(masks: Sequence[Bools], maps: Sequence[Floats]) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate of 0.3, over 0.3.

    The mean overlap over regions is a true-positive rate in which every region weighs the same,
    whatever its size: a ROC curve with weights.
    """
    weights = [_region_weights(mask) for mask in masks]
    truth = np.concatenate([mask.ravel() for mask in masks])
    if not 0 < truth.sum() < truth.size:
        return None
    scores = np.concatenate([m.ravel() for m in maps])
    fpr, pro, _ = roc_curve(truth, scores, sample_weight=np.concatenate(weights))
    inside = fpr <= AUPRO_LIMIT
    edge = float(np.interp(AUPRO_LIMIT, fpr, pro))
    x, y = np.append(fpr[inside], AUPRO_LIMIT), np.append(pro[inside], edge)
    return float(auc(x, y)) / AUPRO_LIMIT


def _region_weights(mask: Bools) -> Floats:
    """One over its region's area for a pixel of a defect, one for a normal pixel. Flat."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float32)
    areas[0] = 1.0  # the background
    weights: Floats = (1.0 / areas)[labels].ravel()
    return weights
