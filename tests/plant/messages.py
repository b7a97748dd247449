"""What the PLC hears, byte by byte, written from the contract and not by the daemon's encoder."""

import struct

from plant.plc import OK


def verdict(
    number: int, part: int, *, camera: int = 1, result: int = OK, bits: int = 1, epoch: int = 7,
    msg_no: int | None = None, age_ms: int = 30, order: str = "<",
) -> bytes:  # fmt: skip
    """`number` is the inspection_id, and msg_no as well where that is not given."""
    return struct.pack(
        order + "BBBBIIIIHHHHI", 17, camera, result, bits, (number if msg_no is None else msg_no),
        epoch, number, part, age_ms, 250, 400, 1, 0,
    )  # fmt: skip


def beat(counter: int, *, period_ms: int = 200, order: str = "<") -> bytes:
    return struct.pack(order + "BBxxIIIIHHII", 18, 8, counter, 0, 3, 0, period_ms, 40, 0, 0)
