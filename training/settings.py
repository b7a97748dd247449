"""Every choice of the training, the paper's printed form always reachable beside our default."""

from typing import Annotated, Literal

from pydantic import Field

from model.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]


class AnomalySettings(Settings):
    """GAAGA, section 3.2."""

    gaaga: Literal["paper", "rich"] = "paper"
    """`paper`: one natural and one blurred square, opaque, half the window wide. `rich`: blobs,
    ellipses and thin lines, feathered, of every opacity, also of the product's own texture."""


class TrainingSettings(Settings):
    """Section 3.4.3 and Table I."""

    seed: int = Field(default=0, ge=0, lt=1 << 63)
    batch: int = Field(default=512, ge=2)
    """Patches in a step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """Table I prints only beta = 0.5; the second is Adam's usual."""
    stage1_steps: int = Field(default=2000, ge=1)
    stage2_steps: int = Field(default=1000, ge=1)
    stop: Literal["early", "fixed"] = "early"
    """`early` ends a stage when held-out images say that it no longer pays; the steps are then a
    ceiling. `fixed` runs them all, as printed."""
    check_every: int = Field(default=50, ge=1)
    patience: int = Field(default=6, ge=1)
    """Checks without a better one after which a stage ends."""
    minutes: float | None = Field(default=None, gt=0)
    """Ceiling for both stages together; two thirds of it are stage 1's."""
    w1: float = Field(default=50.0, ge=0)
    w2: float = Field(default=0.01, ge=0)
    sparsity: Literal["mean", "sum"] = "mean"
    """Over the patches of a batch; eq. 5 prints a sum, MemAE's ratio of w1 to w2 assumes a mean."""
    stage2_target: Literal["clean", "corrupted"] = "clean"
    """Eq. 12 prints the corrupted image; the text says it is repaired."""
    clean_share: float = Field(default=0.4, ge=0, le=1)
    """Patches of stage 2 without an anomaly, which keep batch-norm's statistics on the normal."""
    stage2_batchnorm: Literal["running", "frozen"] = "running"
    anomalies: AnomalySettings = AnomalySettings()
    calibration_share: float = Field(default=0.2, ge=0, lt=1)
    """Normal images of the data folder left untouched for `clearline calibrate`."""
