"""How one picture travels over ZeroMQ: two parts, a header in JSON and the raw pixels.

    {"schema": 1, "height": 512, "width": 512, "channels": 1, "dtype": "uint8",
     "sequence": 8812034, "part": 912345, "exposed_ns": 86400000000000}

Pixels lie row by row, RGB where there are three channels, 16 bit little-endian. A header says
everything or is refused: nothing is allocated, and no byte of the pixels read, on its word alone.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from adapters.errors import FrameMessageError
from adapters.ports import FrameFormat, Pixels

HEADER_BYTES = 1024
"""A header is a fifth of this; a longer one is not parsed."""
PIXEL_BYTES = 1 << 30
"""Of the largest picture."""

_MOST = (1 << 63) - 1
"""More has no place in a ledger, in a database, or in most readers' integers."""

Side = Annotated[int, Meta(ge=1, le=65536)]


class FrameHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal[1]
    height: Side
    width: Side
    channels: Literal[1, 3]
    dtype: Literal["uint8", "uint16"]
    sequence: Annotated[int, Meta(ge=0)]
    """The camera's own count of exposures, 63 bits; it goes on while nobody listens."""
    part: Annotated[int, Meta(ge=0)] = 0
    """Trigger count or encoder position, 63 bits; 0 where the camera knows none."""
    exposed_ns: Annotated[int, Meta(ge=0)] | None = None
    """CLOCK_MONOTONIC of the host that receives; None where the camera's is another."""

    def __post_init__(self) -> None:
        for name in ("sequence", "part"):
            if getattr(self, name) > _MOST:
                raise ValueError(f"Expected `int` <= {_MOST} - at `$.{name}`")
        if self.format.nbytes > PIXEL_BYTES:
            raise ValueError(f"Expected at most {PIXEL_BYTES} bytes of pixels")

    @property
    def format(self) -> FrameFormat:
        return FrameFormat(self.height, self.width, self.channels, self.dtype)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FrameHeader).decode


def encode(
    pixels: Pixels, sequence: int, *, part: int = 0, exposed_ns: int | None = None
) -> list[bytes | memoryview]:
    """Both parts; the second is a view of the pixels where they lie in one piece.

    `pixels`: (height, width, channels).
    """
    frame = FrameFormat.of(pixels)
    header = FrameHeader(
        1, frame.height, frame.width, frame.channels, frame.dtype, sequence, part, exposed_ns
    )
    little_endian = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return [_encode(header), little_endian.data.cast("B")]


def decode_header(part: bytes | memoryview) -> FrameHeader:
    """Raises FrameMessageError, with the field that is wrong."""
    if len(part) > HEADER_BYTES:
        raise FrameMessageError(
            "is too long", key="header", value=f"{len(part)} bytes",
            expected=f"at most {HEADER_BYTES}",
        )  # fmt: skip
    try:
        return _decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A field's name may hold anything, a line break as well.
        problem = str(error).encode("unicode_escape").decode()
        raise FrameMessageError(f"cannot be read: {problem}", key="header") from error


def decode_pixels(header: FrameHeader, parts: Sequence[memoryview]) -> Pixels:
    """A view, (height, width, channels), of what followed the header. Raises FrameMessageError."""
    sizes = [part.nbytes for part in parts]
    if sizes != [header.format.nbytes]:
        raise FrameMessageError(
            f"do not fit their header: {len(sizes)} parts, {sum(sizes)} bytes", key="pixels",
            expected=f"one part of {header.format.nbytes} bytes",
        )  # fmt: skip
    return np.frombuffer(parts[0], header.dtype).reshape(header.format.shape)
