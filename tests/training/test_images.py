"""Data folders: every size and type of image, and a clear error for each thing that is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clearline
from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct
from training.images import Normal, list_tests, read_normals, share_out


def gray(height: int, width: int, value: int = 90) -> np.ndarray:
    return np.full((height, width, 1), value, np.uint8)


def test_gray_among_colour_becomes_colour(tmp_path: Path) -> None:
    write_image(tmp_path / "train/good/a.png", gray(64, 64))
    write_image(tmp_path / "train/good/b.png", np.zeros((70, 80, 3), np.uint8))
    shapes = [normal.pixels.shape for normal in read_normals(tmp_path)]
    assert shapes == [(64, 64, 3), (70, 80, 3)]


def test_strips_and_16_bit_are_read_as_they_are(tmp_path: Path) -> None:
    strip = np.random.default_rng(0).integers(0, 4096, (256, 4096, 1), np.uint16)
    write_image(tmp_path / "train/good/a.png", strip)
    np.testing.assert_array_equal(read_normals(tmp_path)[0].pixels, strip)


def test_fingerprints_are_of_the_picture_not_of_its_file(tmp_path: Path) -> None:
    pixels = SimulatedProduct("grain", 64, 64).part(0).pixels
    write_image(tmp_path / "a.png", pixels)
    write_image(tmp_path / "b.bmp", pixels)
    same = [Normal.of(tmp_path / "a.png", pixels), Normal.of(tmp_path / "b.bmp", pixels.copy())]
    assert same[0].fingerprint == same[1].fingerprint
    assert Normal.of(tmp_path / "a.png", pixels[::-1].copy()).fingerprint != same[0].fingerprint


def test_shares_are_disjoint_complete_and_the_same_in_any_order() -> None:
    product = SimulatedProduct("grain", 64, 64)
    images = [Normal.of(Path(str(k)), product.part(k).pixels) for k in range(20)]
    shares, again = share_out(images, 0.2), share_out(images[::-1], 0.2)
    used = [
        image.path for part in (shares.learn, shares.hold_out, shares.calibrate) for image in part
    ]
    assert sorted(used) == sorted(image.path for image in images)
    assert [len(s) for s in (shares.learn, shares.hold_out, shares.calibrate)] == [14, 2, 4]
    assert [i.path for i in shares.learn] == [i.path for i in again.learn]


def no_folder(root: Path) -> Path:
    return root / "nowhere"


def no_normals(root: Path) -> Path:
    write_image(root / "test/good/a.png", gray(64, 64))
    return root


def empty_normals(root: Path) -> Path:
    (root / "train/good").mkdir(parents=True)
    return root


def too_small(root: Path) -> Path:
    write_image(root / "train/good/a.png", gray(63, 200))
    return root


def truncated(root: Path) -> Path:
    write_image(root / "train/good/a.png", gray(64, 64))
    file = root / "train/good/a.png"
    file.write_bytes(file.read_bytes()[:60])
    return root


def mixed_types(root: Path) -> Path:
    write_image(root / "train/good/a.png", gray(64, 64))
    write_image(root / "train/good/b.png", gray(64, 64).astype(np.uint16))
    return root


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_folder, r"nowhere: does not exist; expected a data folder"),
        (no_normals, r"has no normal images; expected images in train/good"),
        (empty_normals, r"train/good: holds no image; expected files ending in"),
        (too_small, r"a.png: '200x63' is smaller than a patch; expected at least 64x64"),
        (truncated, r"a.png: is truncated or no image \(60 bytes\)"),
        (mixed_types, r"b.png: 'uint16' is of another data type.*expected uint8"),
    ],
)
def test_what_is_wrong_with_normal_images(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    with pytest.raises(clearline.UsageError, match=said) as raised:
        read_normals(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_too_few_normal_images_to_share_out() -> None:
    one = Normal.of(Path("a"), gray(64, 64))
    with pytest.raises(clearline.UsageError, match=r"train/good = 1 are too few.*at least 2"):
        share_out([one], 0.0)


def test_a_defective_image_without_a_mask_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "test/scratch/a.png", gray(64, 64))
    with pytest.raises(clearline.UsageError, match=r"scratch/a.png: has no mask; expected .*a.png"):
        list_tests(tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "test/scratch/a.png", gray(64, 70))
    write_image(tmp_path / "ground_truth/scratch/a_mask.png", gray(64, 64))
    (test,) = list_tests(tmp_path)
    with pytest.raises(
        clearline.UsageError, match=r"a_mask.png: '64x64' is a mask of another size"
    ):
        test.read_mask(test.read().shape)


def test_no_test_images(tmp_path: Path) -> None:
    with pytest.raises(clearline.UsageError, match="has no test images"):
        list_tests(tmp_path)
