"""What the commands train, calibrate, evaluate and inspect do, from files to files."""

import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.image_files import images_right_in, list_images, write_image
from adapters.ports import Pixels
from model import bundle as bundles
from model import calibration as calibrations
from model.bundle import SUFFIX, Bundle
from model.calibration import Calibration, Dtype
from model.engine import Engine, Scored
from model.judgement import Judgement, judge
from model.picture import heat, side_by_side
from model.quality import fault
from model.regions import Region, find
from model.settings import ModelSettings, Settings
from training.calibrate import calibrate
from training.errors import DataError
from training.evaluate import Evaluation, Judged, evaluate
from training.images import Watch, checked
from training.settings import TrainingSettings
from training.train import train
from training.two_stage import Monitor


class TrainFile(Settings):
    """The TOML file of `train --settings`."""

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


def train_to(
    data: Path,
    out: Path,
    natural: Path | None,
    settings_file: Path | None,
    minutes: float | None,
    seed: int | None,
    device: str,
    monitor: Monitor,
    watch: Watch,
) -> dict[str, Any]:
    """Writes the bundle; returns its report. The checkpoint lies beside it until then."""
    if not out.name.endswith(SUFFIX):
        raise DataError(
            "is no name for a bundle", key="out", value=str(out), expected=f"NAME{SUFFIX}"
        )
    _require_place(out)
    settings = TrainFile() if settings_file is None else _read_settings(settings_file)
    given = {k: v for k, v in (("minutes", minutes), ("seed", seed)) if v is not None}
    training = _validated(settings.training, given)
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    bundle = train(data, checkpoint, settings.model, training, natural, monitor, watch, device)
    bundle.save(out)
    checkpoint.unlink(missing_ok=True)
    return {"file": str(out), "hash": bundle.hash, **bundle.report, "summary": _summary(bundle)}


def calibrate_to(
    bundle_file: Path,
    data: Path,
    false_reject_rate: float,
    out: Path | None,
    camera: str,
    recipe: str,
    dtype: str,
    device: str,
    watch: Watch,
) -> dict[str, Any]:
    if not 0 < false_reject_rate < 1:
        raise DataError(
            "is no share", key="false-reject-rate", value=false_reject_rate,
            expected="a number between 0 and 1",
        )  # fmt: skip
    out = out or calibrations.beside(bundle_file)
    bundle = bundles.load(bundle_file)
    _require_place(out)
    calibration, ms_per_image = calibrate(
        bundle, data, false_reject_rate, _dtype(dtype), device, camera, recipe, watch
    )
    calibration.save(out)
    return {
        "file": str(out),
        "threshold": calibration.threshold,
        "images": calibration.images,
        "rank": calibration.rank,
        "false_reject_rate": calibration.false_reject_rate,
        "bound": calibration.bound,
        "confidence": calibration.confidence,
        "ms_per_image": ms_per_image,
    }


def evaluate_on(
    bundle_file: Path,
    data: Path,
    calibration_file: Path | None,
    pictures: Path | None,
    device: str,
    watch: Watch,
) -> Evaluation:
    """Without a calibration beside the bundle, what needs a threshold is left out."""
    bundle = bundles.load(bundle_file)
    beside = calibrations.beside(bundle_file)
    named = calibration_file or (beside if beside.exists() else None)
    calibration = None if named is None else _calibration(named, bundle)
    threshold = math.inf if calibration is None else calibration.threshold

    def look(judged: Judged, pixels: Pixels) -> None:
        if pictures is not None:
            regions = find(judged.defect_map, threshold)
            at = threshold if math.isfinite(threshold) else judged.score
            drawn = side_by_side(pixels, heat(judged.defect_map, at), regions)
            write_image(pictures / judged.test.kind / f"{judged.test.path.stem}.png", drawn)

    return evaluate(bundle, calibration, data, device, watch, look)


def evaluation_table(evaluation: Evaluation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Titles and rows, for people."""
    for title, pixels in (
        (f"pixels, all {evaluation.normal_images + evaluation.defective_images} test images",
         evaluation.with_normal),
        (f"pixels, the {evaluation.defective_images} defective ones", evaluation.without_normal),
    ):  # fmt: skip
        if pixels is None:
            yield f"{title}: no mask marks a pixel", {}
            continue
        rows = {
            "F1 at its best threshold": pixels.f1_best,
            "F1 at the calibrated threshold": pixels.f1_calibrated,
            "F1 at mean + 2.75 sigma of each image": pixels.f1_mean_sigma,
            "average precision": pixels.average_precision,
            "AUROC": pixels.auroc,
            "AUPRO to 0.3": pixels.aupro,
        }
        yield title, rows
    yield (
        "images",
        {
            "AUROC": evaluation.image.auroc,
            "false rejects at the calibrated threshold": evaluation.image.false_reject_rate,
            "recall at the calibrated threshold": evaluation.image.recall,
            "milliseconds an image": evaluation.ms_per_image,
        },
    )
    yield (
        "kinds: images, over the threshold, best F1",
        {
            kind: f"{k.images:4d}  {_dash(k.over_threshold):>4}  {_dash(k.f1_best)}"
            for kind, k in evaluation.kinds.items()
        },
    )


def inspect_images(
    bundle_file: Path,
    named: Sequence[Path],
    calibration_file: Path | None,
    pictures: Path | None,
    device: str,
    watch: Watch,
) -> list[dict[str, Any]]:
    bundle = bundles.load(bundle_file)
    calibration = _calibration(calibration_file or calibrations.beside(bundle_file), bundle)
    engine = Engine(bundle, device, calibration.dtype)
    places = [place for one in named for place in _images_in(one)]
    inspected = []
    for done, (path, shown_as) in enumerate(places):
        watch("inspecting", done, len(places))
        pixels = checked(path)
        (scored,) = engine.score([pixels])
        regions = find(scored.defect_map, calibration.threshold)
        inspected.append(_inspected(path, scored, calibration, regions))
        if pictures is not None:
            drawn = side_by_side(pixels, heat(scored.defect_map, calibration.threshold), regions)
            write_image((pictures / shown_as).with_suffix(".png"), drawn)
    watch("inspecting", len(places), len(places))
    return inspected


def _images_in(named: Path) -> Iterator[tuple[Path, Path]]:
    """An image, or all of a folder and of those in it, each with its path below what was named."""
    if not named.is_dir():
        yield named, Path(named.name)
        return
    folders = [named, *sorted(p for p in named.rglob("*") if p.is_dir())]
    found = [p for folder in folders for p in images_right_in(folder)]
    if not found:
        list_images(named)  # says what is missing
    for path in found:
        yield path, path.relative_to(named)


def _inspected(
    path: Path, scored: Scored, calibration: Calibration, regions: Sequence[Region]
) -> dict[str, Any]:
    against = fault(calibration.quality, scored.quality)
    judgement = judge(scored.score, calibration.threshold, against)
    judged = judgement in (Judgement.OK, Judgement.DEFECT)
    return {
        "image": str(path),
        "outcome": judgement.value if judged else "uninspected",
        "reason": None if judged else judgement.value,
        "score": scored.score if math.isfinite(scored.score) else None,
        "threshold": calibration.threshold,
        "score_ratio": scored.score / calibration.threshold if calibration.threshold else None,
        "regions": [
            {"x": r.x, "y": r.y, "w": r.width, "h": r.height, "area": r.area, "score": r.score}
            for r in regions
        ],
    }


def _calibration(path: Path, bundle: Bundle) -> Calibration:
    calibration = calibrations.load(path)
    calibration.require(bundle.hash, calibration.dtype, path)
    return calibration


def _require_place(out: Path) -> None:
    """Found out before the work, not after it."""
    if out.is_dir():
        raise DataError("is a folder", file=out, key="out", expected="a file's name")
    if not out.parent.is_dir():
        raise DataError("does not exist", file=out.parent, key="out", expected="a folder")


def _dtype(name: str) -> Dtype:
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    raise DataError("is no data type", key="dtype", value=name, expected="float32 or bfloat16")


def _read_settings(path: Path) -> TrainFile:
    try:
        settings = TrainFile.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path, expected="TOML") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"is no TOML: {error}", file=path) from error
    except ValidationError as error:
        raise _named(error, path) from error
    for key, of in (
        ("model.white", settings.model),
        ("model.network.channels", settings.model.network),
    ):
        if key.rpartition(".")[2] in of.model_fields_set:
            raise DataError("is no setting: the images say it", file=path, key=key)
    return settings


def _validated(settings: TrainingSettings, given: dict[str, Any]) -> TrainingSettings:
    try:
        return TrainingSettings.model_validate(settings.model_dump() | given)
    except ValidationError as error:
        raise _named(error, None) from error


def _named(error: ValidationError, path: Path | None) -> DataError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return DataError(f"is wrong: {first['msg']}", file=path, key=key, value=first["input"])


def _summary(bundle: Bundle) -> dict[str, Any]:
    report = bundle.report
    first, second = report["stages"]
    return {
        "images": "{learn} learnt, {hold_out} held out, {left_for_calibration} left for calibrate"
        .format(**report["images"]),
        "artificial anomalies": f"{report['training']['anomalies']['gaaga']}, {report['natural']}",
        "stage 1": f"{first['steps']} steps, {first['ended']}, held-out L1 {-first['best']:.4f}",
        "stage 2": f"{second['steps']} steps, {second['ended']}, "
        f"F1 on held-out artificial anomalies {second['best']:.3f}",
        "memory": f"{second['slots_used']} items in use",
        "minutes": report["seconds"] / 60,
        "hash": bundle.hash[:12],
    }  # fmt: skip


def _dash(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
