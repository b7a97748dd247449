"""A stored frame scored again: the same score where all is as it was, and said where it is not."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clearline
from adapters.evidence_files import Provenance, Record, file_hash, pixels_hash, read_record
from adapters.image_files import read_image, write_described
from adapters.ports import Pixels
from model.bundle import Bundle
from model.calibration import Calibration, beside
from model.engine import Engine
from training.reproduce import TOLERANCE, RecipeFiles, reproduce

EVENT = "line/left/1/7"
DICE = np.random.default_rng(11)
PIXELS = DICE.integers(0, 256, (100, 140, 1), np.uint8)
Store = Callable[..., Path]


@pytest.fixture
def recipes(tiny_files: Path) -> RecipeFiles:
    return {"default": (tiny_files, beside(tiny_files))}


@pytest.fixture
def store(tiny_bundle: Bundle, tiny_files: Path, tmp_path: Path) -> Store:
    """As the line does: scored among others, then stored with its score."""

    def make(pixels: Pixels = PIXELS, suffix: str = ".png", **other: object) -> Path:
        others = [DICE.integers(0, 256, pixels.shape, pixels.dtype) for _ in range(3)]
        scored = Engine(tiny_bundle, "cpu").score([*others, pixels])[-1]
        provenance = Provenance(
            "tiny", tiny_bundle.hash, file_hash(beside(tiny_files)), "d" * 64, "float32"
        )
        record = Record(
            EVENT, "left", 1, 7, 0, scored.score, scored.score / 2, "default", "cpu", (),
            pixels_hash(pixels), provenance, clearline.__version__,
        )  # fmt: skip
        path = tmp_path / f"evidence/left-1-00000007.frame{suffix}"
        write_described(path, pixels, replace(record, **other).text())  # type: ignore[arg-type]
        return path

    return make


def refusal(folder: Path, recipes: RecipeFiles, event: str = EVENT) -> str:
    with pytest.raises(clearline.UsageError) as refused:
        reproduce(event, folder, recipes, "cpu")
    return str(refused.value)


def test_the_same_picture_and_bundle_give_the_same_score(
    store: Store, recipes: RecipeFiles, tiny_bundle: Bundle
) -> None:
    path = store()
    torch.set_num_threads(2)
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    torch.set_num_threads(1)
    assert told["same"] is True
    assert (told["lossless"], told["picture_intact"]) == (True, True)
    assert abs(told["difference"]) <= told["tolerance"] == 1e-3 * told["stored_score"]
    assert told["calibration_changed"] is False
    assert (told["verdict"], told["verdict_now"]) == ("defect", "ok")
    assert told["bundle"] == tiny_bundle.hash


def test_one_other_pixel_is_said_also_where_the_score_does_not_show_it(
    store: Store, recipes: RecipeFiles, tiny_bundle: Bundle
) -> None:
    path = store()
    (scored,) = Engine(tiny_bundle, "cpu").score([PIXELS])
    changed = PIXELS.copy()
    y, x = np.unravel_index(scored.defect_map.argmax(), scored.defect_map.shape)
    changed[(int(y) + 50) % 100, (int(x) + 70) % 140] ^= 1
    write_described(path, changed, read_record(path).text())
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    assert (told["same"], told["picture_intact"]) == (False, False)
    assert abs(told["difference"]) <= told["tolerance"]


def test_another_score_is_not_the_same(store: Store, recipes: RecipeFiles) -> None:
    path = store(score=0.5)
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    assert (told["same"], told["picture_intact"]) == (False, True)
    assert told["difference"] == pytest.approx(told["score"] - 0.5)


def test_deep_pictures_come_out_the_same(store: Store, recipes: RecipeFiles) -> None:
    path = store(DICE.integers(0, 65536, (70, 90, 3), np.uint16))
    assert reproduce(EVENT, path.parent, recipes, "cpu")["same"] is True


def test_a_jpeg_is_compared_and_said_to_be_no_lossless_picture(
    store: Store, recipes: RecipeFiles
) -> None:
    path = store(suffix=".jpg")
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    assert not np.array_equal(read_image(path), PIXELS)
    assert (told["lossless"], told["picture_intact"]) == (False, None)
    assert told["same"] == (abs(told["difference"]) <= told["tolerance"])
    assert told["score"] != told["stored_score"]


def test_another_bundle_is_refused_with_both_hashes(
    store: Store, recipes: RecipeFiles, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = store()
    other = replace(tiny_bundle, report={"made": "another time"})
    other.save(tmp_path / "other.safetensors")
    named = {"default": (tmp_path / "other.safetensors", recipes["default"][1])}
    told = refusal(path.parent, named)
    assert tiny_bundle.hash in told
    assert f"{other.hash} (default)" in told


def test_the_bundle_is_found_also_where_its_recipe_has_another_name(
    store: Store, recipes: RecipeFiles, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = store()
    replace(tiny_bundle, report={}).save(tmp_path / "new.safetensors")
    renamed = {"default": (tmp_path / "new.safetensors", tmp_path), "old": recipes["default"]}
    told = reproduce(EVENT, path.parent, renamed, "cpu")
    assert (told["recipe"], told["same"]) == ("old", True)


def test_of_two_recipes_with_the_bundle_the_one_of_its_name_is_taken(
    store: Store, recipes: RecipeFiles
) -> None:
    path = store(recipe="second")
    named = dict.fromkeys(("first", "second", "third"), recipes["default"])
    assert reproduce(EVENT, path.parent, named, "cpu")["recipe"] == "second"


def test_a_calibration_made_since_is_said_and_gives_the_verdict_of_now(
    store: Store,
    recipes: RecipeFiles,
    tiny_bundle: Bundle,
    calibration_for: Callable[..., Calibration],
) -> None:
    path = store()
    calibration_for(tiny_bundle, threshold=0.0).save(recipes["default"][1])
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    assert told["calibration_changed"] is True
    assert told["same"] is True
    assert (told["threshold_now"], told["verdict_now"]) == (0.0, "defect")


def test_without_its_calibration_a_score_is_reproduced_and_the_verdict_of_now_is_not_known(
    store: Store, recipes: RecipeFiles
) -> None:
    path = store()
    recipes["default"][1].unlink()
    told = reproduce(EVENT, path.parent, recipes, "cpu")
    assert told["same"] is True
    names = ("threshold_now", "verdict_now", "calibration_changed")
    assert [told[name] for name in names] == [None] * 3


def test_evidence_in_a_folder_that_one_may_not_enter_is_refused(
    recipes: RecipeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", forbidden)
    told = refusal(tmp_path, recipes)
    assert told == f"{tmp_path}/left-1-00000007.frame.png: cannot be read: Permission denied"


@pytest.mark.parametrize(
    "event",
    ["left/1/7", "line/left/1/x", "line/../1/7", "", f"line/left/1/{'9' * 400}", "line/left/1/٣",
     f"line/left/{'9' * 5000}/1"],
)  # fmt: skip
def test_what_is_no_event_id_is_refused(event: str, recipes: RecipeFiles, tmp_path: Path) -> None:
    assert "expected line/camera/epoch/sequence" in refusal(tmp_path, recipes, event)


def test_a_frame_that_is_not_there_is_refused_by_its_name(
    recipes: RecipeFiles, tmp_path: Path
) -> None:
    assert "left-1-00000007.frame.png" in refusal(tmp_path, recipes)


def test_another_lines_frame_is_refused(store: Store, recipes: RecipeFiles) -> None:
    assert EVENT in refusal(store().parent, recipes, "other/left/1/7")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"score": None}, "without a score"),
        ({"provenance": Provenance("tiny", "x", "c", "d", "float32")}, "that no recipe has"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    store: Store, recipes: RecipeFiles, other: dict[str, object], told: str
) -> None:
    assert told in refusal(store(**other).parent, recipes)


def test_a_data_type_of_another_time_is_refused(
    store: Store, recipes: RecipeFiles, tiny_bundle: Bundle
) -> None:
    path = store(provenance=Provenance("tiny", tiny_bundle.hash, "c", "d", "float8"))
    assert "float32 or bfloat16" in refusal(path.parent, recipes)
    assert set(TOLERANCE) == {"float32", "bfloat16"}
