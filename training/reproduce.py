"""Score the stored frame of a defect again: is the score still the one that the line gave it?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters import evidence_files
from adapters.evidence_files import Record, read_record
from adapters.image_files import read_image
from model import bundle as bundles
from model import calibration as calibrations
from model.bundle import Bundle
from model.calibration import Calibration, Dtype
from model.engine import TOLERANCE as OF_GOLDEN
from model.engine import Engine, Scored
from model.judgement import judge
from model.quality import fault
from training.errors import DataError

TOLERANCE: Mapping[Dtype, float] = {"float32": OF_GOLDEN["float32"], "bfloat16": 8 * 2**-8}
"""How far the second score may be from the first, relative to it.

What else was in the batch, the threads and the device change the order of sums, so the last bits.
In float32 an engine this far from the golden scores is the bundle's own, so no closer agreement of
two engines was ever promised. bfloat16's golden tolerance compares it with float32; here both
scores are its own, and differ by a few of its steps of 2^-8.
"""

RecipeFiles = Mapping[str, tuple[Path, Path]]
"""By name: bundle and calibration."""


def reproduce(event_id: str, folder: Path, recipes: RecipeFiles, device: str) -> dict[str, Any]:
    """`folder` holds the evidence. `same`: the picture is what was scored, and so is its score.
    What is said of the calibration of now is None where there is none any more.

    Raises DataError, ImageFileError, BundleError or CalibrationError, all of them UsageErrors,
    where something is missing or is not what it was; EngineError as `inspect` does.
    """
    path = _picture(event_id, folder)
    record = read_record(path)
    if record.event_id != event_id:
        raise DataError(
            "is the picture of another event", file=path, key="event_id", value=record.event_id,
            expected=event_id,
        )  # fmt: skip
    if record.score is None:
        raise DataError("was stored without a score", file=path, key="score")
    recipe, bundle = _bundle(record, path, recipes)
    calibration_file = recipes[recipe][1]
    calibration = _calibration(calibration_file, bundle)
    changed = calibration and (
        evidence_files.file_hash(calibration_file) != record.provenance.calibration
    )
    dtype = _dtype(record, path)
    pixels = read_image(path)
    engine = Engine(bundle, device, dtype)
    (scored,) = engine.score([pixels])
    lossless = path.suffix == ".png"
    intact = evidence_files.pixels_hash(pixels) == record.pixels if lossless else None
    difference = scored.score - record.score
    close = abs(difference) <= TOLERANCE[dtype] * abs(record.score)  # False for NaN
    return {
        "event_id": event_id,
        "picture": str(path),
        "stored_score": record.score,
        "score": scored.score,
        "difference": difference,
        "tolerance": TOLERANCE[dtype] * abs(record.score),
        "same": close and intact is not False,
        "lossless": lossless,
        "picture_intact": intact,
        "threshold": record.threshold,
        "verdict": "defect",
        "threshold_now": calibration and calibration.threshold,
        "verdict_now": calibration and _verdict_now(scored, calibration, dtype),
        "calibration_changed": changed,
        "recipe": recipe,
        "bundle": bundle.hash,
        "dtype": dtype,
        "device": str(engine.device),
        "stored_device": record.device,
        "stored_version": record.version,
    }


def _picture(event_id: str, folder: Path) -> Path:
    frame = evidence_files.frame_of(event_id)
    if frame is None:
        raise DataError(
            "is no defect event's id", key="event_id", value=event_id,
            expected="line/camera/epoch/sequence",
        )  # fmt: skip
    places = [
        folder / f"{evidence_files.stem(frame)}.frame{end}" for end in evidence_files.SUFFIXES
    ]
    for path in places:
        if _is_there(path):
            return path
    raise DataError(
        "has no stored frame", file=folder, key="event_id", value=event_id,
        expected=f"{places[0].name}, unless frames are not kept, or it was deleted since",
    )  # fmt: skip


def _bundle(record: Record, path: Path, recipes: RecipeFiles) -> tuple[str, Bundle]:
    """Of the recipe that has the bundle of then; first looked for under its own name."""
    found = {}
    for name in sorted(recipes, key=lambda name: name != record.recipe):
        bundle = bundles.load(recipes[name][0])
        if bundle.hash == record.provenance.bundle:
            return name, bundle
        found[name] = bundle.hash
    raise DataError(
        "was scored with a bundle that no recipe has", file=path, key="bundle",
        value=record.provenance.bundle,
        expected=", ".join(f"{digest} ({name})" for name, digest in found.items()),
    )  # fmt: skip


def _calibration(path: Path, bundle: Bundle) -> Calibration | None:
    """None where it is gone: the score does not need it."""
    if not _is_there(path):
        return None
    calibration = calibrations.load(path)
    calibration.require(bundle.hash, calibration.dtype, path)
    return calibration


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # in a folder that one may not enter
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _dtype(record: Record, path: Path) -> Dtype:
    for dtype in TOLERANCE:
        if dtype == record.provenance.dtype:
            return dtype
    raise DataError(
        "is no data type", file=path, key="dtype", value=record.provenance.dtype,
        expected=" or ".join(TOLERANCE),
    )  # fmt: skip


def _verdict_now(scored: Scored, calibration: Calibration, dtype: Dtype) -> str | None:
    """None: the threshold is now one of another data type, and says nothing of this score."""
    if calibration.dtype != dtype:
        return None
    against = fault(calibration.quality, scored.quality)
    return judge(scored.score, calibration.threshold, against).value
