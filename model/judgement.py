"""What a score means: the one place where `ok` is said."""

import math
from enum import StrEnum


class Judgement(StrEnum):
    OK = "ok"
    DEFECT = "defect"
    INVALID_SCORE = "invalid_score"
    IMAGE_QUALITY = "image_quality"
    INCOMPLETE = "incomplete"


def judge(score: float, threshold: float, fault: Judgement | None) -> Judgement:
    """`fault`: what `model.quality` has against the picture itself; it may still look perfect."""
    if not math.isfinite(score):
        return Judgement.INVALID_SCORE
    if fault is not None:
        return fault
    # Written so that a threshold that is no number rejects as well.
    return Judgement.OK if score <= threshold else Judgement.DEFECT
