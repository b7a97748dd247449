"""A camera played back: a folder of images, one image, a list of them, or a video.

With `fps` it keeps that pace as a camera would, and a frame that finds no slot is lost and
reported; with `fps=0` it delivers as fast as slots are lent, and wants a long deadline: it runs
ahead of the worker until ADMIT turns frames away. `loop` begins again at the end. Everything
happens in the thread that calls `stream`.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from adapters.errors import ImageFileError, SourceError
from adapters.image_files import SUFFIXES, list_images, read_image
from adapters.ports import FrameFormat, Intake, Pixels, Reason, Shot

LIST = ".txt"
PLAYABLE = "a folder of images, an image, a list in a .txt, or a video"


class ReplaySource:
    counts_on = False

    def __init__(self, path: Path, *, fps: float = 0.0, loop: bool = False) -> None:
        """`path`: a folder, an image, a .txt with a path a line (relative to it), or a video."""
        self._path, self._fps, self._loop = path, fps, loop
        self._stopped = threading.Event()

    def stream(self, intake: Intake) -> None:
        """An image that cannot be read is a frame that is `corrupt`; the ones after it go on."""
        period_ns = 1e9 / self._fps if self._fps else 0.0
        began_ns: int | None = None
        for sequence, pixels in enumerate(self._pictures()):
            if began_ns is None:  # the clock starts with a first picture in hand
                began_ns = time.monotonic_ns()
            due_ns = began_ns + round(sequence * period_ns)
            if self._stopped.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                return
            shot = Shot(sequence, due_ns if self._fps else time.monotonic_ns())
            if pixels is None:
                intake.unseen(shot, Reason.CORRUPT)
                continue
            lease = intake.lend(FrameFormat.of(pixels), wait=not self._fps)
            if self._stopped.is_set() or (lease is None and not self._fps):
                return
            if lease is None:
                intake.unseen(shot, Reason.OVERLOAD)
                continue
            np.copyto(lease.pixels, pixels)
            if not self._fps:  # it is exposed when there is room for it
                shot = Shot(sequence, time.monotonic_ns())
            intake.arrived(shot, lease)

    def stop(self) -> None:
        self._stopped.set()

    def _pictures(self) -> Iterator[Pixels | None]:
        for _ in itertools.count() if self._loop else range(1):
            yield from self._once()

    def _once(self) -> Iterator[Pixels | None]:
        is_video = self._path.is_file() and self._path.suffix.lower() not in (*SUFFIXES, LIST)
        if is_video:
            yield from self._video()
            return
        try:
            paths = self._paths()
        except (ImageFileError, OSError, UnicodeDecodeError) as error:
            raise SourceError(
                f"cannot be played back: {error}", file=self._path, expected=PLAYABLE
            ) from error
        if not paths:
            raise SourceError("lists no image", file=self._path, expected="a path a line")
        readable = False
        for path in paths:
            pixels = _read(path)
            readable = readable or pixels is not None
            yield pixels
        if not readable:  # played in a loop it would be nothing but corrupt frames, without a pause
            raise SourceError("holds no readable image", file=self._path, expected=PLAYABLE)

    def _paths(self) -> list[Path]:
        if self._path.suffix == LIST:
            lines = self._path.read_text().splitlines()
            return [self._path.parent / line for line in lines if line.strip()]
        return [self._path] if self._path.is_file() else list_images(self._path)

    def _video(self) -> Iterator[Pixels]:
        video = cv2.VideoCapture(str(self._path))
        try:
            read, picture = video.read()
            if not read:
                raise SourceError(
                    "is no video that OpenCV can play", file=self._path, expected=PLAYABLE
                )
            while read:
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                read, picture = video.read()
        finally:
            video.release()


def _read(path: Path) -> Pixels | None:
    try:
        return read_image(path)
    except ImageFileError:
        return None
