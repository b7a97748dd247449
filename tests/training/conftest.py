"""A small product on disk, and settings that train in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct
from model.settings import MemorySettings, ModelSettings, NetworkSettings
from training import two_stage
from training.settings import TrainingSettings

MakeData = Callable[..., Path]


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """Writes a data folder of a simulated product: normal images, and defective ones with masks."""

    def make(
        product: SimulatedProduct, normal: int, *, good: int = 0, bad: int = 0, name: str = "data"
    ) -> Path:
        root = tmp_path / name
        for k in range(normal):
            write_image(root / "train" / "good" / f"{k:03d}.png", product.part(k).pixels)
        for k in range(normal, normal + good):
            write_image(root / "test" / "good" / f"{k:03d}.png", product.part(k).pixels)
        flawed = SimulatedProduct(
            product.kind, product.height, product.width, product.channels, product.dtype,
            product.seed, defect_rate=1.0,
        )  # fmt: skip
        for k in range(bad):
            part = flawed.part(k)
            mask = part.mask[:, :, None].astype("uint8") * 255
            write_image(root / "test" / "flaw" / f"{k:03d}.png", part.pixels)
            write_image(root / "ground_truth" / "flaw" / f"{k:03d}.png", mask)
        return root

    return make


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of a training are most of its time where a training has six steps."""
    monkeypatch.setattr(two_stage, "HELD_OUT_PATCHES", 16)
    monkeypatch.setattr(two_stage, "HELD_OUT_WINDOWS", 2)


@pytest.fixture
def small_model() -> ModelSettings:
    return ModelSettings(
        network=NetworkSettings(channels=1, latent=16), memory=MemorySettings(items=8)
    )


@pytest.fixture
def quick() -> TrainingSettings:
    return TrainingSettings(
        batch=8, stage1_steps=6, stage2_steps=6, check_every=2, calibration_share=0.3
    )


class Silent:
    """A monitor that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.losses: list[float] = []
        self.resumes: list[tuple[int, int]] = []

    def step(self, stage: int, step: int, steps: int, loss: float) -> None:
        self.steps.append((stage, step))
        self.losses.append(loss)

    def checked(self, stage: int, step: int, score: float, slots_used: int) -> None: ...

    def resumed(self, stage: int, step: int) -> None:
        self.resumes.append((stage, step))


@pytest.fixture
def silent() -> Silent:
    return Silent()
