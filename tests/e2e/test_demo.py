"""The main job from end to end, as `make demo` does it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.image_files import read_image


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_demo_catches_the_defects_within_its_budget(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    ended = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "demo", "--frames", "300", "--json", "--keep", keep],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result = json.loads(ended.stdout)
    print(ended.stdout)
    assert result["received"] == 300
    decided = result["ok"] + result["defect"] + result["uninspected"]
    assert result["received"] == decided + result["in_flight"]
    assert result["in_flight"] == 0
    assert result["uninspected"] <= 15, "half of what the machine gives is asked of it"
    assert result["recall"] >= 0.9
    assert result["false_rejects"] <= result["false_reject_bound"]
    assert 0 < result["latency_ms_p50"] <= result["latency_ms_p99"]

    events = [json.loads(line) for line in (keep / "events.jsonl").read_text().splitlines()]
    defects = [e for e in events if e["type"] == "clearline.defect.v1"]
    assert len({e["id"] for e in defects}) == len(defects) == result["defect"]
    for event in defects:
        picture = read_image(Path(event["data"]["image_ref"].removeprefix("file://")))
        height, width, _ = picture.shape
        assert (width - 8) % 3 == 0 or (height - 8) % 3 == 0, "image, heat map, outlines"
        frame = read_image(Path(event["data"]["frame_ref"].removeprefix("file://")))
        assert frame.shape == (256, 256, 1)
    assert (keep / "grain.safetensors").is_file()
    assert (keep / "grain.calibration.json").is_file()
