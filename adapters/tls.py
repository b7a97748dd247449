"""How a connection is secured, for whoever opens one."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: whom we trust, and, where the broker asks for it, who we are."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
