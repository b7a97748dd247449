"""Pictures on disk: gray or colour, 8 or 16 bit, as (height, width, channels) arrays, RGB."""

import contextlib
import struct
from pathlib import Path

import cv2
import numpy as np

from adapters.errors import ImageFileError, PictureError
from adapters.ports import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp"})
UNFINISHED = ".part"
"""While `write_described` is at it, a picture is a hidden file: `.NAME.part`."""
_PNG = b"\x89PNG"
# Exif is a TIFF directory. Ours has one entry: ImageDescription, text, right behind the directory.
_EXIF = struct.Struct("<2sHIHHHIII")
_TEXT_AT = _EXIF.size
_EXIF_BEGIN = (b"II", 42, 8, 1, 0x010E, 2)

# OpenCV prints what it could not decode; our errors say it once, with the file's name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def list_images(folder: Path) -> list[Path]:
    """The pictures right in a folder, in name order. Raises ImageFileError where there is none."""
    try:
        found = images_right_in(folder)
    except OSError as error:
        raise ImageFileError(
            f"cannot be listed: {error.strerror}", file=folder, expected="a folder of images"
        ) from error
    if not found:
        raise ImageFileError(
            "holds no image", file=folder, expected=f"files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return found


def images_right_in(folder: Path) -> list[Path]:
    """As `list_images`, but there may be none. Raises OSError."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def read_image(path: Path) -> Pixels:
    """Raises ImageFileError where it is missing, truncated, or not 8- or 16-bit gray or colour."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageFileError(
            f"cannot be read: {error.strerror}", file=path, expected="an image file"
        ) from error
    truncated_png = content.startswith(_PNG) and content[-8:-4] != b"IEND"
    decoded = None if truncated_png or not content else _decode(content)
    if decoded is None:
        raise ImageFileError(
            f"is truncated or no image ({len(content)} bytes)", file=path,
            expected="a whole image file",
        )  # fmt: skip
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(
            "is not of 8 or 16 bit", file=path, key="dtype", value=str(decoded.dtype),
            expected="uint8 or uint16",
        )  # fmt: skip
    if decoded.ndim == 2:
        return decoded[:, :, None]
    return np.ascontiguousarray(decoded[:, :, 2::-1])  # BGR or BGRA to RGB


def write_image(path: Path, pixels: Pixels) -> None:
    """Lossless PNG, or what the suffix says. Raises PictureError where it cannot be written."""
    stored = pixels[:, :, ::-1] if pixels.shape[2] == 3 else pixels
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done, content = cv2.imencode(path.suffix, np.ascontiguousarray(stored))
        if not done:
            raise _too_large(path, pixels)
        path.write_bytes(content.tobytes())
    except cv2.error as error:
        raise PictureError(
            "cannot be encoded", file=path, expected="a name ending in .png or .jpg"
        ) from error
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # rather none than a torn one
        raise PictureError(
            f"cannot be written: {error.strerror}",
            file=path,
            expected="a writable folder with room",
        ) from error


def write_described(path: Path, pixels: Pixels, description: str) -> None:
    """As `write_image`, with an ASCII text inside, as Exif's ImageDescription (JPEG: to 64 kB).

    The file gets its name when it is whole. Raises PictureError.
    """
    stored = pixels[:, :, ::-1] if pixels.shape[2] == 3 else pixels
    text = description.encode("ascii") + b"\0"
    exif = _EXIF.pack(*_EXIF_BEGIN, len(text), _TEXT_AT, 0) + text
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        done, content = cv2.imencodeWithMetadata(
            path.suffix,
            np.ascontiguousarray(stored),
            [cv2.IMAGE_METADATA_EXIF],
            [np.frombuffer(exif, np.uint8)],
        )
        if not done:
            raise _too_large(path, pixels, len(text))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content.data)
        unfinished.replace(path)
    except cv2.error as error:
        raise PictureError(
            "cannot be encoded", file=path, expected="a name ending in .png or .jpg"
        ) from error
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise PictureError(
            f"cannot be written: {error.strerror}",
            file=path,
            expected="a writable folder with room",
        ) from error


def read_description(path: Path) -> str | None:
    """What `write_described` put in; None where there is no such text.

    Raises ImageFileError where the picture itself cannot be read.
    """
    read_image(path)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    _, kinds, chunks = cv2.imdecodeWithMetadata(content, flags=cv2.IMREAD_UNCHANGED)
    for kind, chunk in zip(kinds, chunks, strict=True):
        exif = np.asarray(chunk, np.uint8).tobytes()
        if kind == cv2.IMAGE_METADATA_EXIF and len(exif) > _TEXT_AT:
            *begin, length, at, _ = _EXIF.unpack_from(exif)
            if tuple(begin) == _EXIF_BEGIN and at == _TEXT_AT:
                return exif[at : at + length - 1].decode("ascii", "replace")
    return None


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """Gray to three equal channels, or colour to its luma; unchanged where it fits."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None]


def _too_large(path: Path, pixels: Pixels, text_bytes: int = 0) -> PictureError:
    """OpenCV says only that it did not encode it."""
    height, width, _ = pixels.shape
    return PictureError(
        f"cannot be {path.suffix}: {width} x {height} pixels, {text_bytes} bytes of text",
        file=path, expected="what the format holds (JPEG: 65500 pixels a side, 64 kB of text)",
    )  # fmt: skip


def _decode(content: bytes) -> Pixels | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
