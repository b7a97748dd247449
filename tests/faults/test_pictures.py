"""Pictures that a model would repair perfectly, through the whole line: none of them is ever ok."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from plant.line_here import LineHere
from plant.mqtt import until

from adapters.ports import Outcome, Reason
from model.bundle import Bundle
from model.calibration import Calibration, beside
from model.change import change, sample
from model.quality import learn, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def test_black_saturated_blurred_frozen_and_short_pictures_are_never_ok(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: Callable[..., Calibration]
) -> None:
    """With limits learned from pictures such as the camera shows."""
    path = tmp_path / "tiny.safetensors"
    tiny_bundle.save(path)
    dice = np.random.default_rng(8)
    normal = dice.integers(30, 220, (20, 128, 128, 1), np.uint8)
    samples = [sample(picture) for picture in normal]
    measured = measure(torch.from_numpy(normal).permute(0, 3, 1, 2), 255)
    changes = [None, *(change(now, before) for before, now in itertools.pairwise(samples))]
    limits = learn([replace(q, change=c) for q, c in zip(measured, changes, strict=True)])
    calibration = calibration_for(tiny_bundle).model_copy(update={"quality": limits})
    calibration.save(beside(path))
    last = normal[0]
    shown = {
        "black": (np.zeros_like(last), Reason.IMAGE_QUALITY),
        "saturated": (np.where(dice.random(last.shape) < 0.9, 255, last), Reason.IMAGE_QUALITY),
        "blurred": (cv2.GaussianBlur(normal[1], (0, 0), 6)[..., None], Reason.IMAGE_QUALITY),
        "normal": (last, None),
        "frozen": (last, Reason.IMAGE_QUALITY),
        "frozen, encoded again": (last ^ 1, Reason.IMAGE_QUALITY),
        "normal again": (normal[2], None),
        "short": (normal[3][:96], Reason.INCOMPLETE),
        "normal at last": (normal[4], None),
    }
    async with LineHere(tmp_path, '[recipes.default]\nbundle = "tiny.safetensors"\n') as line:
        line.stop_showing()
        numbers = {}
        for name, (pixels, _) in shown.items():
            numbers[name] = line.show(np.ascontiguousarray(pixels, np.uint8))
            await until(lambda n=numbers[name]: n in line.verdicts)
    wrong = {line.verdicts[numbers[n]].exposure.part for n, (_, why) in shown.items() if why}
    at_gate = line.judged(bad=wrong)
    print(f"\n{at_gate}")
    assert at_gate.bad == at_gate.without_ok == ()
    assert at_gate.passed >= 3
    said = {name: line.verdicts[number] for name, number in numbers.items()}
    print("\n" + ", ".join(f"{name}: {v.reason or v.outcome}" for name, v in said.items()))
    for name, (_, reason) in shown.items():
        assert said[name].reason is reason, name
        assert (said[name].outcome is Outcome.OK) == (reason is None), name
