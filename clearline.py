"""The one family of errors. What goes wrong reaches the user as one line that says what and where.

It stands above the packages because `adapters` and `model` know nothing of each other, and both
raise it. Foreign errors are turned into it where they enter.
"""

from importlib.metadata import version
from pathlib import Path

__version__ = version("clearline")


class Error(Exception):
    """Work that failed. Its text is one line: file, key, value, what is wrong, what was expected.

    >>> str(Error("is negative", file=Path("line.toml"), key="cameras.left.fps", value=-3,
    ...           expected="a number above 0"))
    'line.toml: cameras.left.fps = -3 is negative; expected a number above 0'
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        key: str | None = None,
        value: object = None,
        expected: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else Path(file)
        self.key = key
        self.value = value
        self.expected = expected
        super().__init__(self._line())

    def _line(self) -> str:
        where = "" if self.file is None else f"{self.file}: "
        name = "" if self.key is None else self.key
        given = "" if self.value is None else repr(self.value)
        subject = " = ".join(part for part in (name, given) if part)
        wanted = "" if self.expected is None else f"; expected {self.expected}"
        return f"{where}{f'{subject} ' if subject else ''}{self.problem}{wanted}"


class UsageError(Error):
    """What the user named cannot be used: a path, an option, a key of the configuration."""

    exit_code = 2
