"""A camera's own frame ids, which wrap after some bits, as numbers that only rise."""

from adapters.errors import SourceError


class Unwrapped:
    """One connection's ids. What is lost between two frames is known if it is under half a cycle.

    GigE Vision counts in 16 bits and leaves out 0: after 65535 comes 1.
    """

    def __init__(self, bits: int = 16, skips_zero: bool = True) -> None:
        self._ids = range(1 if skips_zero else 0, 1 << bits)
        self._number: int | None = None

    def number(self, id: int) -> int:
        """The first id as it is, then the shorter way from the one before: back, where that is it.

        Raises SourceError where the camera cannot have counted so.
        """
        if id not in self._ids:
            raise SourceError(
                "is no frame id", key="id", value=id,
                expected=f"{self._ids.start} to {self._ids.stop - 1}",
            )  # fmt: skip
        if self._number is None:
            self._number = id
        # Numbers and ids agree modulo the cycle, since the first number is its id.
        cycle = len(self._ids)
        step = (id - self._number) % cycle
        self._number += step if 2 * step <= cycle + 1 else step - cycle
        return self._number
