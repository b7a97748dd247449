"""Cuts AITEX strips into squares behind the white backdrop and the selvedge, as a data folder.

    python tests/bench/aitex_crops.py SURFACE OUT

The backdrop's edge differs from strip to strip, so no fixed region of interest masks it. A column
belongs to the fabric once its mean lies within the strip's own usual brightness; the crops start a
margin behind the last column that does not. Defective strips give only the crops that a defect
touches, normal ones give all of theirs.
"""

import sys
from pathlib import Path

import numpy as np

from adapters.image_files import list_images, read_image, write_image
from adapters.ports import Pixels

SIDE = 256
MARGIN = 64  # pixels of selvedge behind the backdrop's edge


def fabric_begins(strip: Pixels) -> int:
    """The first column behind backdrop and selvedge."""
    columns = strip[:, :, 0].mean(axis=0)
    right_half = columns[columns.size // 2 :]
    usual, spread = np.median(right_half), max(4.0, 4 * right_half.std())
    left = np.nonzero(np.abs(columns[: columns.size // 2] - usual) > spread)[0]
    return 0 if left.size == 0 else int(left[-1]) + MARGIN


def main(surface: Path, out: Path) -> None:
    for folder in ("train/good", "test/good", "test/defect"):
        written = 0
        for path in list_images(surface / folder):
            strip = read_image(path)
            mask_path = surface / "ground_truth" / "defect" / path.name
            mask = read_image(mask_path) if folder == "test/defect" else np.zeros_like(strip)
            for x in range(fabric_begins(strip), strip.shape[1] - SIDE + 1, SIDE):
                truth = mask[:, x : x + SIDE]
                if folder == "test/defect" and not truth.any():
                    continue
                name = f"{path.stem}_{x:04d}.png"
                write_image(out / folder / name, strip[:, x : x + SIDE])
                if truth.any():
                    write_image(out / "ground_truth" / "defect" / name, truth)
                written += 1
        print(f"{folder}: {written} crops")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
