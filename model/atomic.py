"""Files that are either the old one or the new one, also after a power cut or on a full disk."""

import os
import tempfile
from pathlib import Path

from model.errors import SaveError


def write(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename, fsync the folder. Raises SaveError; the old file then stands."""
    beside: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            beside = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise SaveError(
            f"could not be saved: {error.strerror}",
            file=path,
            expected="a writable folder with room",
        ) from error
