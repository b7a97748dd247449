"""Metrics against definitions written out plainly, and against scikit-learn where it has them."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from training.metrics import aupro, auroc, best_f1, f1_of, pixel_curve

RNG = np.random.default_rng(0)


def a_case(size: int = 400) -> tuple[np.ndarray, np.ndarray]:
    truth = RNG.random(size) < 0.2
    # Steps of a tenth: ties, as a saturated map has them.
    scores = np.round(truth * 0.4 + RNG.random(size), 1).astype(np.float32)
    return truth, scores


def test_best_f1_is_the_best_over_all_thresholds() -> None:
    truth, scores = a_case()
    found = best_f1(truth, scores)
    by_hand = max(f1_score(truth, scores >= t) for t in np.unique(scores))
    assert found.f1 == pytest.approx(by_hand)
    assert f1_score(truth, scores >= found.threshold) == pytest.approx(by_hand)


def test_average_precision_is_scikit_learns() -> None:
    truth, scores = a_case()
    expected = average_precision_score(truth, scores)
    assert pixel_curve(truth, scores).average_precision == pytest.approx(expected)


def test_f1_of_a_decision_is_eq_17() -> None:
    truth, scores = a_case()
    found = scores > 0.7
    tp, fp, fn = (truth & found).sum(), (~truth & found).sum(), (truth & ~found).sum()
    recall, precision = tp / (tp + fn), tp / (tp + fp)
    assert f1_of(truth, found) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1_of(truth, np.zeros_like(found)) == 0.0


def test_auroc_is_the_chance_that_a_defect_scores_higher() -> None:
    truth, scores = a_case(150)
    pairs = [(p, n) for p in scores[truth] for n in scores[~truth]]
    chance = np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])
    assert auroc(truth, scores) == pytest.approx(chance)
    assert auroc(np.zeros(3, bool), np.arange(3, dtype=np.float32)) is None


def plain_aupro(masks: list[np.ndarray], maps: list[np.ndarray]) -> float:
    """The mean overlap of hand-labelled regions against the false-positive rate, threshold by
    threshold, by trapezes up to 0.3."""
    regions = [(0, (slice(2, 6), slice(2, 6))), (0, (slice(10, 12), slice(3, 19))),
               (1, (slice(0, 1), slice(0, 2)))]  # fmt: skip
    normal = np.concatenate([m[~t] for t, m in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        fpr = float((normal >= threshold).mean())
        overlap = float(np.mean([(maps[i][box] >= threshold).mean() for i, box in regions]))
        points.append((fpr, overlap))
    x, y = np.array(points).T
    grid = np.unique(np.append(x[x <= 0.3], 0.3))
    # Several thresholds with one rate: the curve is vertical there, the area counts its top.
    top = np.array([y[x == g].max() if (x == g).any() else np.interp(g, x, y) for g in grid])
    low = np.array([y[x == g].min() if (x == g).any() else np.interp(g, x, y) for g in grid])
    trapezes = np.diff(grid) * (top[:-1] + low[1:]) / 2
    return float(trapezes.sum()) / 0.3


def test_aupro_weighs_every_region_alike() -> None:
    masks = [np.zeros((20, 20), bool), np.zeros((20, 20), bool)]
    masks[0][2:6, 2:6] = True
    masks[0][10:12, 3:19] = True
    masks[1][0, 0:2] = True
    maps = [(RNG.random((20, 20)) + 0.5 * m).astype(np.float32) for m in masks]
    assert aupro(masks, maps) == pytest.approx(plain_aupro(masks, maps), abs=1e-6)
    assert aupro(masks, [m.astype(np.float32) for m in masks]) == pytest.approx(1.0)
    assert aupro([np.zeros((4, 4), bool)], [np.zeros((4, 4), np.float32)]) is None
