"""The folder of evidence, kept within its bytes and its age. In the evidence thread only.

Only files that are called as ours are ever counted or deleted. All pictures of one frame go
together, the oldest frame first; age and order are those of the files, in Unix time.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from adapters.evidence_files import stem_of
from adapters.image_files import UNFINISHED

SHARE_GIVEN_UP = 0.1
LEAST_GIVEN_UP = 16 << 20  # bytes


@dataclass(slots=True)
class _Frame:
    """All pictures of one frame."""

    written: float
    sizes: dict[Path, int] = field(default_factory=dict)


class FolderLimit:
    def __init__(self, folder: Path, max_bytes: int, max_age_hours: float) -> None:
        self._folder, self._max_bytes, self._max_age_s = folder, max_bytes, max_age_hours * 3600
        self._frames: OrderedDict[str, _Frame] = OrderedDict()  # the oldest first
        self.bytes = 0

    def look(self) -> None:
        """At the start: what earlier runs left, finished or not. Raises OSError."""
        remove_unfinished(self._folder)
        for path in _files_in(self._folder):
            self.wrote(path)
        self._frames = OrderedDict(sorted(self._frames.items(), key=lambda item: item[1].written))
        self.enforce()

    def wrote(self, path: Path) -> None:
        """A picture stands in the folder; one of a name that is not ours is none of our business.

        Raises OSError.
        """
        stem = stem_of(path.name)
        if stem is None:
            return
        try:
            found = path.stat()
        except FileNotFoundError:  # someone was quicker
            return
        frame = self._frames.setdefault(stem, _Frame(found.st_mtime))
        self.bytes += found.st_size - frame.sizes.get(path, 0)
        frame.sizes[path] = found.st_size

    def enforce(self) -> None:
        """Delete what is too much and what is too old. Raises OSError."""
        oldest_allowed = time.time() - self._max_age_s
        while self._frames:
            oldest = next(iter(self._frames.values()))
            if self.bytes <= self._max_bytes and oldest.written >= oldest_allowed:
                return
            self._delete_oldest()

    def give_up(self) -> int:
        """Delete a tenth, the oldest; returns of how many frames. Raises OSError."""
        down_to = self.bytes - max(LEAST_GIVEN_UP, int(self.bytes * SHARE_GIVEN_UP))
        frames = 0
        while self._frames and self.bytes > down_to:
            self._delete_oldest()
            frames += 1
        return frames

    def _delete_oldest(self) -> None:
        # Forgotten first: one that cannot be deleted does not keep the others from it.
        _, frame = self._frames.popitem(last=False)
        self.bytes -= sum(frame.sizes.values())
        for path in frame.sizes:
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """What a kill left of pictures that were being written. Raises OSError."""
    for path in _files_in(folder):
        name = path.name
        hidden = name.startswith(".") and name.endswith(UNFINISHED)
        if hidden and stem_of(name[1 : -len(UNFINISHED)]) is not None:
            path.unlink(missing_ok=True)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
