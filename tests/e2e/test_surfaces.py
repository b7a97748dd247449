"""The commands on real line-scan strips of fabric, whole and cut. Plumbing, not quality: what a
model reaches there is in docs/measurements.md."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.surfaces]

QUICK = """
[model]
network.latent = 16
memory.items = 8
[training]
batch = 16
stage1_steps = 4
stage2_steps = 4
check_every = 4
calibration_share = 0.4
"""


def clearline(*words: object) -> Any:
    command = [sys.executable, "-m", "daemon.cli", *(str(word) for word in words), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_real_strips_go_the_whole_way(surfaces: Path, tmp_path: Path) -> None:
    real = surfaces / "aitex/fabric03"
    for folder, count in (("train/good", 4), ("test/good", 1), ("test/defect", 2)):
        (tmp_path / "strips" / folder).mkdir(parents=True)
        for path in sorted((real / folder).iterdir())[:count]:
            shutil.copy(path, tmp_path / "strips" / folder)
            mask = real / "ground_truth/defect" / path.name
            if folder == "test/defect":
                (tmp_path / "strips/ground_truth/defect").mkdir(parents=True, exist_ok=True)
                shutil.copy(mask, tmp_path / "strips/ground_truth/defect")
    (tmp_path / "quick.toml").write_text(QUICK)
    cut = [sys.executable, "tests/bench/aitex_crops.py", tmp_path / "strips", tmp_path / "crops"]
    subprocess.run(cut, check=True, cwd=Path(__file__).parents[2])

    for name in ("strips", "crops"):
        data, bundle = tmp_path / name, tmp_path / f"{name}.safetensors"
        report = clearline(
            "train", data, "--out", bundle, "--settings", tmp_path / "quick.toml",
            "--natural", surfaces / "natural",
        )  # fmt: skip
        assert report["natural"] == "125 photographs"
        calibrated = clearline("calibrate", bundle, data, "--false-reject-rate", 0.4)
        evaluation = clearline("evaluate", bundle, data)
        assert evaluation["threshold"] == calibrated["threshold"] > 0
        assert math.isfinite(evaluation["with_normal"]["average_precision"])
        assert 0 < evaluation["with_normal"]["f1_best"] <= 1
