"""Pictures on disk: what was written is read, and what is broken is named, never guessed."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from adapters.errors import ImageFileError, PictureError
from adapters.image_files import (
    list_images,
    read_description,
    read_image,
    to_channels,
    write_described,
    write_image,
)
from adapters.ports import Pixels

RNG = np.random.default_rng(3)


def picture(channels: int, dtype: str = "uint8") -> Pixels:
    return RNG.integers(0, np.iinfo(dtype).max, (70, 93, channels), dtype, endpoint=True)


def smooth() -> Pixels:
    """What JPEG keeps nearly as it is."""
    return cv2.GaussianBlur(picture(3), (0, 0), 9)


def refusal(path: Path) -> ImageFileError:
    with pytest.raises(ImageFileError) as refused:
        read_image(path)
    assert refused.value.file == path
    assert refused.value.expected
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", "uint8"),
        (".png", "uint16"),
        (".tiff", "uint8"),
        (".tif", "uint16"),
        (".bmp", "uint8"),
    ],
)
def test_lossless_kinds_come_back_as_they_were_written(
    tmp_path: Path, channels: int, suffix: str, dtype: str
) -> None:
    pixels = picture(channels, dtype)
    write_image(tmp_path / f"new/folder/image{suffix}", pixels)
    back = read_image(tmp_path / f"new/folder/image{suffix}")
    assert back.dtype == pixels.dtype
    assert np.array_equal(back, pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_comes_back_nearly_and_with_its_colours_in_order(
    tmp_path: Path, channels: int
) -> None:
    pixels = smooth()[:, :, :channels]
    write_image(tmp_path / "image.jpg", pixels)
    back = read_image(tmp_path / "image.jpg")
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_an_alpha_channel_is_left_away(tmp_path: Path, suffix: str, dtype: str) -> None:
    bgra = picture(4, dtype)
    cv2.imwrite(str(tmp_path / f"image{suffix}"), bgra)
    back = read_image(tmp_path / f"image{suffix}")
    assert np.array_equal(back, bgra[:, :, [2, 1, 0]])
    assert back.flags["C_CONTIGUOUS"]


def test_gray_with_alpha_is_read(tmp_path: Path) -> None:
    gray, alpha = picture(1), np.full((70, 93, 1), 255, np.uint8)
    (tmp_path / "image.png").write_bytes(_gray_alpha_png(np.concatenate((gray, alpha), axis=2)))
    back = read_image(tmp_path / "image.png")
    assert back.shape[2] in (1, 3)
    assert np.array_equal(to_channels(back, 1), gray)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".webp", ".pgm"])
def test_a_truncated_file_is_refused_at_any_length(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, picture(1) if suffix == ".pgm" else picture(3))
    content = path.read_bytes()
    length = max(1, min(int(len(content) * share), len(content) - 9))
    path.write_bytes(content[:length])
    assert f"{length} bytes" in str(refusal(path))


@pytest.mark.parametrize("content", [b"", b"this is a letter, not a picture\n", b"\x89PNG", b"BM"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert "truncated or no image" in str(refusal(path))


@pytest.mark.parametrize("dtype", ["float32", "int32", "int16"])
def test_a_depth_that_no_camera_has_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "image.tiff"
    if not cv2.imwrite(str(path), np.ones((64, 64), dtype)):
        pytest.skip("OpenCV does not write it either")
    error = refusal(path)
    assert (error.key, error.value, error.expected) == ("dtype", dtype, "uint8 or uint16")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in str(refusal(tmp_path / "none.png"))
    assert "directory" in str(refusal(tmp_path))


def test_a_folder_is_listed_in_name_order_without_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.tif", "notes.txt", "thumbs.db"):
        (tmp_path / name).touch()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.tif"]


def test_a_folder_without_pictures_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageFileError, match=r"holds no image; expected .*\.png"):
        list_images(tmp_path)
    with pytest.raises(ImageFileError, match=r"none: cannot be listed: No such file"):
        list_images(tmp_path / "none")


def test_what_cannot_be_written_is_one_of_our_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match="cannot be written"):
        write_image(tmp_path / "file/image.png", picture(1))
    with pytest.raises(PictureError, match="cannot be encoded"):
        write_image(tmp_path / "image.txt", picture(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", "uint8"), (".png", "uint16"), (".jpg", "uint8")]
)
def test_a_described_picture_has_the_same_pixels_and_its_text(
    tmp_path: Path, channels: int, suffix: str, dtype: str
) -> None:
    pixels, text = picture(channels, dtype), '{"score": 0.25, "model": "caf\\u00e9"}' * 100
    plain, described = tmp_path / f"plain{suffix}", tmp_path / f"new/described{suffix}"
    write_image(plain, pixels)
    write_described(described, pixels, text)
    assert np.array_equal(read_image(described), read_image(plain))
    assert read_description(described) == text
    assert read_description(plain) is None
    assert [p.name for p in described.parent.iterdir()] == [described.name]


def test_a_description_by_someone_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    exif = np.frombuffer(b"MM\0*" + b"\0" * 60, np.uint8)
    _, content = cv2.imencodeWithMetadata(
        ".png", picture(1), [cv2.IMAGE_METADATA_EXIF], [exif]
    )  # fmt: skip
    path.write_bytes(content.tobytes())
    assert read_description(path) is None


def test_on_a_full_disk_no_part_of_a_described_picture_stays(small_disk: Path) -> None:
    write_described(small_disk / "first.png", picture(3), "fits")
    too_large = RNG.integers(0, 256, (300, 300, 1), np.uint8)
    with pytest.raises(PictureError, match="cannot be written: No space left"):
        write_described(small_disk / "second.png", too_large, "does not fit")
    assert [path.name for path in small_disk.iterdir()] == ["first.png"]
    assert read_description(small_disk / "first.png") == "fits"


def test_what_has_no_suffix_of_a_picture_cannot_be_described(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot be encoded"):
        write_described(tmp_path / "image.txt", picture(1), "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("width", "text", "said"),
    [
        (65_536, "text", "cannot be .jpg: 65536 x 2 pixels, 5 bytes of text"),
        (64, "x" * 70_000, "cannot be .jpg: 64 x 2 pixels, 70001 bytes of text"),
    ],
)
def test_what_the_format_does_not_hold_is_said_and_leaves_no_file(
    tmp_path: Path, width: int, text: str, said: str
) -> None:
    with pytest.raises(PictureError, match=said) as refused:
        write_described(tmp_path / "image.jpg", np.zeros((2, width, 1), np.uint8), text)
    assert "65500 pixels a side" in str(refused.value.expected)
    assert not list(tmp_path.iterdir())


def test_a_plain_picture_that_is_too_wide_for_its_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="65536 x 2 pixels"):
        write_image(tmp_path / "image.jpg", np.zeros((2, 65_536, 1), np.uint8))


def test_channels_are_made_to_fit() -> None:
    gray, colour = picture(1), picture(3)
    assert to_channels(gray, 1) is gray
    assert np.array_equal(to_channels(gray, 3), np.concatenate((gray,) * 3, axis=2))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_channels(colour, 1)[:, :, 0] - luma).max() <= 1


def _gray_alpha_png(pixels: Pixels) -> bytes:
    """PNG's colour type 4, which OpenCV does not write."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
