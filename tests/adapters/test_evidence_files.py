"""The names of evidence and what is written in it."""

from pathlib import Path

import numpy as np
import pytest

from adapters.errors import ImageFileError
from adapters.evidence_files import (
    Box,
    Provenance,
    Record,
    file_hash,
    frame_of,
    pixels_hash,
    read_record,
    stem,
    stem_of,
)
from adapters.image_files import write_described, write_image
from adapters.ports import FrameId

PIXELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64, 1)


@pytest.mark.parametrize("camera", ["left", "cam-2-7", "a_b", "1"])
@pytest.mark.parametrize("kind", [".crop.jpg", ".frame.png", ".heat.png", ".png"])
def test_a_picture_is_known_by_its_name(camera: str, kind: str) -> None:
    for sequence in (0, 12, 123_456_789_012):
        name = stem(FrameId("line", camera, 7, sequence))
        assert stem_of(name + kind) == name


@pytest.mark.parametrize(
    "name",
    ["holiday.png", "left-7-12.frame.png", "left-7-00000012.mask.png", "Left-7-00000012.frame.png",
     "left-7-00000012.frame.png.part", ".left-7-00000012.frame.png", "left-7-00000012.frame.tiff",
     "left-00000012.frame.png"],
)  # fmt: skip
def test_other_names_are_not_ours(name: str) -> None:
    assert stem_of(name) is None


def test_an_event_id_names_its_frame_and_nothing_else_does() -> None:
    frame = FrameId("Line-1", "cam-2", 7, 12)
    assert frame_of(str(frame)) == frame
    for wrong in ("", "left/7/12", "line/left/7/x", "line/left/7/12/13", "line/../7/12",
                  "line/left/7/١٢", f"line/left/7/{'1' * 21}"):  # fmt: skip
        assert frame_of(wrong) is None


def test_a_record_comes_back_as_it_was_written_also_with_letters_of_any_script(
    tmp_path: Path,
) -> None:
    record = Record(
        "line/left/1/2", "left", 1, 2, 1_785_312_000_000, 0.1 + 0.2, 1e-7, "café", "cuda:0",
        (Box(1, 2, 3, 4, 5, 0.125),), pixels_hash(PIXELS),
        Provenance("布", "b" * 64, "c" * 64, "d" * 64, "float32"), "0.1.0",
    )  # fmt: skip
    for suffix in (".png", ".jpg"):
        write_described(tmp_path / f"a{suffix}", PIXELS, record.text())
        assert read_record(tmp_path / f"a{suffix}") == record


@pytest.mark.parametrize("text", [None, "{}", "no JSON", '{"event_id": 3}'])
def test_a_picture_that_does_not_say_how_it_was_judged_is_refused(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "left-1-00000002.frame.png"
    if text is None:
        write_image(path, PIXELS)
    else:
        write_described(path, PIXELS, text)
    with pytest.raises(ImageFileError, match="does not say how it was judged") as refused:
        read_record(path)
    assert refused.value.file == path


def test_any_other_pixel_shape_or_type_is_another_hash() -> None:
    changed = PIXELS.copy()
    changed[63, 63] ^= 1
    different = [PIXELS, changed, PIXELS.reshape(32, 128, 1), PIXELS.astype(np.uint16)]
    assert len({pixels_hash(pixels) for pixels in different}) == 4
    assert pixels_hash(PIXELS[:, ::-1][:, ::-1]) == pixels_hash(PIXELS)


def test_a_files_hash_is_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert file_hash(tmp_path / "empty").startswith("e3b0c44298fc1c14")
