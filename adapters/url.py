"""A camera's URL, `kind:PLACE?option=value&…`, taken apart with every mistake named."""

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from adapters.errors import SourceUrlError


@dataclass(frozen=True)
class CameraUrl:
    text: str
    scheme: str
    place: str
    options: dict[str, str]

    @staticmethod
    def parse(text: str) -> "CameraUrl":
        """Raises SourceUrlError."""
        try:
            parts = urlsplit(text)
            options = parse_qsl(
                parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)
            )
            _require_plain(text, options)
        except ValueError as error:
            raise SourceUrlError(
                f"cannot be parsed ({error})", key="url", value=text,
                expected="kind:PLACE?option=value&…",
            ) from error  # fmt: skip
        if not parts.scheme:
            raise SourceUrlError(
                "does not say what kind of camera it is", key="url", value=text,
                expected="kind:PLACE?option=value&…",
            )  # fmt: skip
        return CameraUrl(text, parts.scheme, parts.netloc + parts.path, dict(options))

    def allow(self, *names: str) -> None:
        """Raises SourceUrlError for an option that this kind of camera does not have."""
        for name, value in self.options.items():
            if name not in names:
                raise SourceUrlError(
                    f"is no option of a {self.scheme} camera (in {self.text})", key=name,
                    value=value, expected=" or ".join(names),
                )  # fmt: skip

    def number(self, name: str, default: float) -> float:
        """A finite number from 0."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise self._wrong(name, "a number from 0")
        return value

    def whole(self, name: str, default: int) -> int:
        """A whole number from 0."""
        text = self.options.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise self._wrong(name, "a whole number from 0")
        return int(text)

    def flag(self, name: str, default: bool) -> bool:
        text = self.options.get(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise self._wrong(name, "true or false")
        return text == "true"

    def _wrong(self, name: str, expected: str) -> SourceUrlError:
        value = self.options[name]
        return SourceUrlError(
            f"is wrong (in {self.text})", key=name, value=value, expected=expected
        )


def _require_plain(text: str, options: list[tuple[str, str]]) -> None:
    """What a URL's rules would cut off or overlay without a word."""
    if "#" in text:
        raise ValueError("a # in it must be written %23")
    if len(options) != len(dict(options)):
        raise ValueError("an option is given twice")
