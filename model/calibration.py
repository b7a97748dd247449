"""The calibration: a threshold and quality limits for one bundle, data type, camera and recipe.

A small JSON file beside the bundle. It belongs to the bundle and data type that it was made with
and is refused elsewhere. No torch here.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from model import atomic
from model.errors import CalibrationError
from model.settings import Settings

Dtype = Literal["float32", "bfloat16"]
SUFFIX = ".calibration.json"


class QualityLimits(Settings):
    """What an image must be for its score to mean anything; measures of `model.quality`."""

    brightness_low: float
    brightness_high: float
    sharpness_low: float
    saturated_high: float
    change_low: float = Field(ge=0)
    """A picture that is no more unlike the one before it than this is a repetition."""
    rows_low: int = Field(ge=1)
    """A picture of fewer rows is a short strip."""


class Histogram(Settings):
    """Scores of the calibration images, for watching drift: counts between equal steps."""

    low: float
    high: float
    counts: tuple[int, ...]


class Calibration(Settings):
    version: Literal[2] = 2
    bundle: str
    """SHA-256 of the bundle."""
    dtype: Dtype
    camera: str
    recipe: str
    false_reject_rate: float = Field(gt=0, lt=1)
    """The operator's budget: the share of good images that may be rejected."""
    images: int = Field(ge=1)
    rank: int = Field(ge=1)
    """The threshold is the rank-th smallest of the images' scores."""
    threshold: float = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    bound: float = Field(gt=0, le=1)
    """The true false-reject rate is under this, with that confidence."""
    quality: QualityLimits
    histogram: Histogram

    def save(self, path: Path) -> None:
        atomic.write(path, self.model_dump_json(indent=1).encode() + b"\n")

    def require(self, bundle_hash: str, dtype: Dtype, file: Path) -> None:
        """Raises CalibrationError unless it was made with this very bundle in this data type."""
        for key, ours, theirs in (
            ("bundle", self.bundle, bundle_hash),
            ("dtype", self.dtype, dtype),
        ):
            if ours != theirs:
                raise CalibrationError(
                    f"was made with another {key}; calibrate again",
                    file=file,
                    key=key,
                    value=ours[:12],
                    expected=theirs[:12],
                )


def load(path: Path) -> Calibration:
    """Raises CalibrationError, naming the file and the key."""
    try:
        return Calibration.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise CalibrationError(
            f"cannot be read: {error.strerror}",
            file=path,
            expected="a file made by clearline calibrate",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        named = first["loc"] and isinstance(first["input"], str | int | float)
        raise CalibrationError(
            f"is not valid: {first['msg']}",
            file=path,
            key=".".join(str(part) for part in first["loc"]) or None,
            value=first["input"] if named else None,
            expected="a file made by clearline calibrate",
        ) from error


def beside(bundle: Path) -> Path:
    """Where a bundle's calibration lies unless the user says otherwise."""
    return bundle.with_name(bundle.stem + SUFFIX)
