"""Evaluates one bundle with every form of the residual: the same weights, another defect map.

python tests/bench/residuals.py BUNDLE DATA
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from model.bundle import Bundle, load
from model.engine import restore
from model.settings import ResidualSettings
from training.evaluate import evaluate
from training.sampler import as_tensor

FORMS = (
    ResidualSettings(),
    ResidualSettings(weights="equal"),
    ResidualSettings(weights="scale1"),
    ResidualSettings(weights="scale1", scope="patch"),
    ResidualSettings(residual="pixels"),
)


def with_residual(bundle: Bundle, residual: ResidualSettings) -> Bundle:
    """The bundle as if it had been made with this residual: its golden scores are made anew."""
    settings = bundle.settings.model_copy(update={"residual": residual})
    with torch.inference_mode():
        maps = restore(settings, bundle.weights).map(as_tensor(list(bundle.golden_pixels)))
    return replace(bundle, settings=settings, golden_scores=maps.amax(dim=(1, 2)).numpy())


def main(bundle: Path, data: Path) -> None:
    for form in FORMS:
        found = evaluate(with_residual(load(bundle), form), None, data, "auto", lambda *_: None)
        pixels = found.with_normal
        if pixels is None:
            sys.exit(f"{data}: no mask marks a pixel")
        print(
            f"{form.residual:<9} {form.weights:<16} {form.scope:<6} F1 {pixels.f1_best:.3f}  "
            f"AP {pixels.average_precision:.3f}  AUROC {pixels.auroc:.3f}  "
            f"AUPRO {pixels.aupro:.3f}  images {found.image.auroc:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
