"""Coming back: how long a part that failed waits before it is tried again."""

from dataclasses import dataclass


@dataclass
class Backoff:
    """Pauses in seconds that double up to a ceiling, until something worked again."""

    first: float = 0.2
    ceiling: float = 10.0
    _next: float = 0.0

    def next(self) -> float:
        pause = self._next or self.first
        self._next = min(self.ceiling, 2 * pause)
        return pause

    def reset(self) -> None:
        self._next = 0.0
