"""What a score means: the one place where `ok` is said."""

import math
from enum import StrEnum


class Judgement(StrEnum):
    OK = "ok"
    DEFECT = "defect"
    INVALID_SCORE = "invalid_score"
    IMAGE_QUALITY = "image_quality"


def judge(score: float, threshold: float, *, sound: bool) -> Judgement:
    """`sound`: the picture itself passed its quality check; what did not can look perfect."""
    if not math.isfinite(score):
        return Judgement.INVALID_SCORE
    if not sound:
        return Judgement.IMAGE_QUALITY
    # Written so that a threshold that is no number rejects as well.
    return Judgement.OK if score <= threshold else Judgement.DEFECT
