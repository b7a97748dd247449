"""The command line from images to verdicts: any size, gray or colour, 8 or 16 bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.image_files import read_image, write_image
from adapters.sources.product import SimulatedProduct
from daemon.cli import main

pytestmark = pytest.mark.slow

QUICK = """
[model]
network.latent = 16
memory.items = 8
[training]
batch = 8
stage1_steps = 2
stage2_steps = 2
check_every = 2
calibration_share = 0.5
"""


@pytest.fixture
def clearline(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in this process; returns its exit code, JSON result and last error line."""

    def run(*words: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        code = int(ended.value.code or 0)
        result = json.loads(said.out) if code == 0 and "--json" in words else said.out
        return code, result, said.err.strip().rpartition("\n")[2]

    return run


def write_data(root: Path, product: SimulatedProduct, normal: int = 12) -> None:
    for k in range(normal):
        write_image(root / "train/good" / f"{k}.png", product.part(k).pixels)
    write_image(root / "test/good/0.png", product.part(normal).pixels)
    flawed = SimulatedProduct(
        product.kind, product.height, product.width, product.channels, product.dtype, 5, 1.0
    )
    part = flawed.part(0)
    write_image(root / "test/flaw/0.png", part.pixels)
    write_image(root / "ground_truth/flaw/0.png", part.mask[:, :, None].astype(np.uint8) * 255)


@pytest.mark.parametrize(
    "product",
    [
        SimulatedProduct("woven", 64, 64),
        SimulatedProduct("wood", 100, 150, channels=3),
        SimulatedProduct("grain", 90, 70, dtype="uint16"),
        SimulatedProduct("woven", 256, 4096),
    ],
    ids=["gray 64x64", "colour", "16 bit", "4096x256 strip"],
)
def test_train_calibrate_evaluate_inspect(
    product: SimulatedProduct, clearline: Callable[..., Any], tmp_path: Path
) -> None:
    data, bundle = tmp_path / "data", tmp_path / "p.safetensors"
    write_data(data, product, normal=12 if product.width < 4096 else 4)
    (tmp_path / "quick.toml").write_text(QUICK)

    code, report, _ = clearline(
        "train", data, "--out", bundle, "--settings", tmp_path / "quick.toml", "--json"
    )
    assert code == 0
    assert report["natural"] == "procedural textures", "the report says what stood in"
    assert [stage["steps"] for stage in report["stages"]] == [2, 2]
    assert not list(tmp_path.glob(".*checkpoint*"))

    code, calibrated, _ = clearline("calibrate", bundle, data, "--false-reject-rate", 0.4, "--json")
    assert code == 0
    assert calibrated["images"] == report["images"]["left_for_calibration"]

    code, evaluation, _ = clearline(
        "evaluate", bundle, data, "--pictures", tmp_path / "e", "--json"
    )
    assert code == 0
    assert evaluation["threshold"] == calibrated["threshold"]
    assert evaluation["with_normal"]["f1_best"] >= evaluation["with_normal"]["f1_calibrated"] >= 0
    assert evaluation["without_normal"]["f1_best"] >= evaluation["with_normal"]["f1_best"]
    shown = read_image(tmp_path / "e/flaw/0.png")
    stacked = product.width > 2 * product.height
    assert shown.shape[0] >= product.height * (3 if stacked else 1)

    code, inspected, _ = clearline(
        "inspect", bundle, data / "test", data / "test/good/0.png", "--pictures", tmp_path / "i",
        "--json",
    )  # fmt: skip
    assert code == 0
    assert [Path(one["image"]).parent.name for one in inspected["images"]] == [
        "flaw",
        "good",
        "good",
    ]
    assert (tmp_path / "i/flaw/0.png").is_file(), "kinds have images of the same names"
    assert (tmp_path / "i/good/0.png").is_file()
    for one in inspected["images"]:
        over = one["score"] > one["threshold"]
        assert one["outcome"] == ("defect" if over else "ok")
        assert bool(one["regions"]) is over


def test_good_test_images_alone_still_measure_false_rejects(
    clearline: Callable[..., Any], tiny_files: Path
) -> None:
    data = tiny_files.parent / "data"
    write_image(data / "test/good/0.png", SimulatedProduct("grain", 64, 64).part(0).pixels)
    code, evaluation, _ = clearline("evaluate", tiny_files, data, "--json")
    assert code == 0
    assert evaluation["image"]["false_reject_rate"] == 0.0
    assert evaluation["with_normal"] is None
    assert clearline("evaluate", tiny_files, data)[0] == 0


def test_a_colour_folder_calibrates_a_gray_bundle(
    clearline: Callable[..., Any], tiny_files: Path
) -> None:
    data = tiny_files.parent / "data"
    write_data(data, SimulatedProduct("grain", 64, 64, channels=3), normal=4)
    assert clearline("calibrate", tiny_files, data, "--false-reject-rate", 0.4)[0] == 0


def test_printed_settings_are_reached_by_the_settings_file(
    clearline: Callable[..., Any], tmp_path: Path
) -> None:
    write_data(tmp_path / "data", SimulatedProduct("grain", 64, 64), normal=6)
    printed = QUICK.replace(
        "[training]",
        'memory.temperature = 1.0\nmemory.gates = "softmax"\nnetwork.outer_activation = true\n'
        'residual.weights = "equal"\nresidual.scope = "patch"\nstride = 32\n[training]\n'
        'sparsity = "sum"\nstage2_target = "corrupted"\nstop = "fixed"\nclean_share = 0.0\n'
        'stage2_batchnorm = "frozen"\nanomalies.gaaga = "paper"',
    )
    (tmp_path / "printed.toml").write_text(printed)
    code, report, error = clearline(
        "train", tmp_path / "data", "--out", tmp_path / "p.safetensors", "--settings",
        tmp_path / "printed.toml", "--json",
    )  # fmt: skip
    assert code == 0, error
    assert report["training"]["stage2_target"] == "corrupted"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train", "{}/none", "--out", "{}/p.safetensors"), 2, "none: does not exist"),
        (("train", "{}/data", "--out", "{}/p.pickle"), 2, "out = '{}/p.pickle' is no name"),
        (("train", "{}/data", "--out", "{}/no/p.safetensors"), 2, "no: out does not exist"),
        (
            ("train", "{}/data", "--out", "{}/p.safetensors", "--settings", "{}/bad.toml"),
            2,
            "bad.toml: training.betch = 3 is wrong: Extra inputs are not permitted",
        ),
        (
            ("train", "{}/data", "--out", "{}/p.safetensors", "--minutes", "-1"),
            2,
            "minutes = -1.0 is wrong: Input should be greater than 0",
        ),
        (("train", "{}/data", "--out", "{}/p.safetensors", "--seed", "-1"), 2,
         "seed = -1 is wrong"),
        (("train", "{}/data", "--out", "{}/data/x.safetensors", "--settings", "{}/white.toml"), 2,
         "white.toml: model.white is no setting: the images say it"),
        (("train",), 2, "Missing argument 'data'."),
        (("evaluate", "{}/tiny.safetensors", "{}/data", "--bogus"), 2, "No such option: --bogus"),
        (("calibrate", "{}/tiny.safetensors", "{}/data", "--false-reject-rate", "0.5", "--out",
          "{}/no/c.json"), 2, "no: out does not exist"),
        (("inspect", "{}/tiny.safetensors", "{}/small.png"), 2,
         "small.png: '200x40' is smaller than a patch; expected at least 64x64"),
        (("evaluate", "{}/tiny.safetensors", "{}/masked"), 2,
         "is a mask of another size than its image; expected 64x64"),
        (("calibrate", "{}/none.safetensors", "{}/data", "--false-reject-rate", "0.1"), 2,
         "none.safetensors: does not exist; expected a bundle"),
        (("calibrate", "{}/tiny.safetensors", "{}/data", "--false-reject-rate", "2"), 2,
         "false-reject-rate = 2.0 is no share; expected a number between 0 and 1"),
        (("calibrate", "{}/tiny.safetensors", "{}/data", "--false-reject-rate", "0.01"), 2,
         "expected 95 more for a false-reject rate of 0.01"),
        (("calibrate", "{}/tiny.safetensors", "{}/data", "--false-reject-rate", "0.5", "--dtype",
          "int8"), 2, "dtype = 'int8' is no data type; expected float32 or bfloat16"),
        (("evaluate", "{}/tiny.safetensors", "{}/data", "--device", "cuda:77"), 1,
         "device = 'cuda:77' is not there"),
        (("inspect", "{}/tiny.safetensors", "{}/none.png"), 2, "none.png: cannot be read: No such"),
        (("inspect", "{}/tiny.safetensors", "{}/data", "--calibration", "{}/c.json"), 2,
         "c.json: bundle = 'another' was made with another bundle"),
        (("run", "{}/none.toml"), 2, "none.toml: cannot be read: No such file"),
        (("check", "{}/line.toml"), 2, "line.toml: camera is no key that is known here"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_errors_are_one_line_and_name_what_is_wrong(
    words: tuple[str, ...],
    code: int,
    said: str,
    clearline: Callable[..., Any],
    tiny_files: Path,
) -> None:
    here = tiny_files.parent
    write_data(here / "data", SimulatedProduct("grain", 64, 64), normal=4)
    (here / "bad.toml").write_text("[training]\nbetch = 3\n")
    calibration = (here / "tiny.calibration.json").read_text()
    other = json.loads(calibration) | {"bundle": "another"}
    (here / "c.json").write_text(json.dumps(other))
    (here / "white.toml").write_text("[model]\nwhite = 4095\n")
    write_image(here / "small.png", np.zeros((40, 200, 1), np.uint8))
    write_image(here / "masked/test/flaw/a.png", np.zeros((64, 64, 1), np.uint8))
    write_image(here / "masked/ground_truth/flaw/a.png", np.zeros((64, 70, 1), np.uint8))
    (here / "line.toml").write_text('[camera.left]\nurl = "replay:x"\n')
    ended, _, error = clearline(*(word.replace("{}", str(here)) for word in words))
    assert ended == code
    assert error.startswith("clearline: ")
    assert said.replace("{}", str(here)) in error


def test_check_says_what_a_line_asks_for(clearline: Callable[..., Any], tiny_files: Path) -> None:
    config = tiny_files.parent / "line.toml"
    config.write_text(
        '[recipes.default]\nbundle = "tiny.safetensors"\n'
        '[cameras.left]\nurl = "simulated:grain?fps=5"\ndeadline_ms = 100\nmax_fps = 20\n'
    )
    code, checked, _ = clearline("check", config, "--json")
    assert code == 0
    # ceil(20 frames a second x 0.1 s) + 3 slots of 4 MiB
    assert checked["ring_mib"] == 20.0
    assert "5 slots" in checked["camera left"]
