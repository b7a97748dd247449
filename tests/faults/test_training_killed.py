"""A training killed with SIGKILL goes on from its last checkpoint when it is started again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct

pytestmark = pytest.mark.slow

# A training that says each step on its standard output, so that the test kills it where it wants.
PROGRAM = """
import sys
from pathlib import Path
from model.settings import MemorySettings, ModelSettings, NetworkSettings
from training.settings import TrainingSettings
from training.train import train

class Loud:
    def step(self, stage, step, steps, loss): print("step", stage, step, flush=True)
    def checked(self, *_): pass
    def resumed(self, stage, step): print("resumed", stage, step, flush=True)

here = Path(sys.argv[1])
model = ModelSettings(network=NetworkSettings(latent=16), memory=MemorySettings(items=8))
settings = TrainingSettings(batch=8, stage1_steps=6, stage2_steps=6, check_every=2)
bundle = train(here / "data", here / "checkpoint", model, settings, None, Loud(),
               lambda *_: None, "cpu")
bundle.save(here / "product.safetensors")
"""


def start(here: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(here)], stdout=subprocess.PIPE, text=True
    )


def test_kill_9_in_either_stage_costs_no_more_than_the_steps_since_the_last_check(
    tmp_path: Path,
) -> None:
    product = SimulatedProduct("grain", 64, 64)
    for k in range(6):
        write_image(tmp_path / "data/train/good" / f"{k}.png", product.part(k).pixels)
    for kill_at in ("step 1 5", "step 2 3"):
        with start(tmp_path) as training:
            assert training.stdout is not None
            for line in training.stdout:
                if line.strip() == kill_at:
                    training.send_signal(signal.SIGKILL)
                    break
        assert training.returncode == -signal.SIGKILL
        assert not (tmp_path / "product.safetensors").exists()
    with start(tmp_path) as training:
        assert training.stdout is not None
        said = training.stdout.read().splitlines()
    assert training.returncode == 0
    assert said[0] == "resumed 2 2"
    assert said[1] == "step 2 3"
    assert (tmp_path / "product.safetensors").is_file()
