"""A calibration comes back as it was saved, and is refused where it does not belong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model import calibration
from model.bundle import Bundle
from model.calibration import Calibration, beside
from model.errors import CalibrationError

MakeCalibration = Callable[..., Calibration]


@pytest.fixture
def saved(tiny_bundle: Bundle, calibration_for: MakeCalibration, tmp_path: Path) -> Path:
    path = tmp_path / "left.calibration.json"
    calibration_for(tiny_bundle, threshold=0.25).save(path)
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibration.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert "expected" in line
    return line


def _rewrite(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_it_comes_back_as_it_was_saved(
    tiny_bundle: Bundle, calibration_for: MakeCalibration, saved: Path
) -> None:
    assert calibration.load(saved) == calibration_for(tiny_bundle, threshold=0.25)


@pytest.mark.parametrize("threshold", [0.1, 1 / 3, 5e-324, 1.7e308, 0.0])
def test_the_threshold_comes_back_to_the_last_bit(
    tiny_bundle: Bundle, calibration_for: MakeCalibration, tmp_path: Path, threshold: float
) -> None:
    path = tmp_path / "c.json"
    calibration_for(tiny_bundle, threshold=threshold).save(path)
    assert calibration.load(path).threshold == threshold


def test_an_unknown_key_is_refused_by_name(saved: Path) -> None:
    _rewrite(saved, treshold=3)
    assert "treshold" in _refusal(saved)


@pytest.mark.parametrize("key", ["bundle", "dtype", "threshold", "quality", "histogram", "rank"])
def test_a_missing_key_is_refused_by_name(saved: Path, key: str) -> None:
    content = json.loads(saved.read_text())
    del content[key]
    saved.write_text(json.dumps(content))
    assert key in _refusal(saved)


def test_a_missing_key_within_a_table_is_refused_by_its_whole_name(saved: Path) -> None:
    quality = json.loads(saved.read_text())["quality"]
    del quality["sharpness_low"]
    _rewrite(saved, quality=quality)
    assert "quality.sharpness_low" in _refusal(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 1),
        ("threshold", "much"),
        ("threshold", -1),
        ("images", 1.5),
        ("images", 0),
        ("dtype", "float16"),
        ("false_reject_rate", 0),
        ("false_reject_rate", 1),
        ("confidence", 1.5),
    ],
)
def test_a_wrong_value_is_refused_with_key_and_value(saved: Path, key: str, value: object) -> None:
    _rewrite(saved, **{key: value})
    assert f": {key} = {value!r} is not valid" in _refusal(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [("threshold", None), ("threshold", True), ("threshold", "0.25"), ("images", "100")],
)
def test_a_value_of_another_type_is_never_taken_for_a_number(
    saved: Path, key: str, value: object
) -> None:
    _rewrite(saved, **{key: value})
    assert key in _refusal(saved)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_threshold_that_is_no_number_is_refused(saved: Path, value: str) -> None:
    saved.write_text(saved.read_text().replace('"threshold": 0.25', f'"threshold": {value}'))
    assert value in saved.read_text()
    assert "threshold" in _refusal(saved)


def test_a_calibration_cut_anywhere_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content.rstrip())):
        saved.write_bytes(content[:length])
        _refusal(saved)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{}", b"\x00" * 64])
def test_what_is_no_calibration_is_refused(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    _refusal(saved)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "none.json")
    assert "directory" in _refusal(tmp_path)


def test_it_serves_the_bundle_and_type_it_was_made_with(
    tiny_bundle: Bundle, calibration_for: MakeCalibration
) -> None:
    calibration_for(tiny_bundle).require(tiny_bundle.hash, "float32", Path("c.json"))


def test_another_bundle_is_refused_by_name(
    tiny_bundle: Bundle, calibration_for: MakeCalibration
) -> None:
    other = "0" * 64
    with pytest.raises(CalibrationError) as caught:
        calibration_for(tiny_bundle).require(other, "float32", Path("c.json"))
    line = str(caught.value)
    assert line.startswith("c.json: bundle = ")
    assert tiny_bundle.hash[:12] in line
    assert other[:12] in line


def test_another_type_is_refused_by_name(
    tiny_bundle: Bundle, calibration_for: MakeCalibration
) -> None:
    with pytest.raises(CalibrationError, match=r"c\.json: dtype = 'float32' .*bfloat16"):
        calibration_for(tiny_bundle).require(tiny_bundle.hash, "bfloat16", Path("c.json"))


@pytest.mark.parametrize(
    ("bundle", "expected"),
    [
        ("/a/wood.safetensors", "/a/wood.calibration.json"),
        ("wood.v2.safetensors", "wood.v2.calibration.json"),
        ("/a/wood", "/a/wood.calibration.json"),
    ],
)
def test_it_lies_beside_its_bundle(bundle: str, expected: str) -> None:
    assert beside(Path(bundle)) == Path(expected)
