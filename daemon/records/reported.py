"""What events have told of frames, so that a start finds what the ledger knows and no event told.

A verdict is in the ledger at once and in the outbox some milliseconds later, a run of uninspected
frames up to a second later: a kill in between leaves a verdict that no event tells.
"""

from dataclasses import dataclass

from adapters.ports import Event


@dataclass(frozen=True, slots=True)
class Reported:
    """Of one camera: by one event, or by all that were ever committed."""

    camera: str
    defects: int
    uninspected: int
    epoch: int
    sequence: int
    """The last frame of which something was told."""

    def is_behind(self, defects: int, uninspected: int) -> bool:
        """Of what the ledger knows."""
        return defects > self.defects or uninspected > self.uninspected


def reported(event: Event) -> Reported | None:
    """None: it tells of no frame's verdict. A defect that was found late is no verdict either."""
    match event.data:
        case {"verdict": "defect", "late": False, "strips": strips, "last_sequence": last}:
            return Reported(event.data["camera"], strips, 0, event.data["epoch"], last)
        case {"kind": "uninspected" | "gap", "count": count, "last_sequence": last}:
            return Reported(event.data["camera"], 0, count, event.data["epoch"], last)
        case {"kind": "unrecorded", "camera": camera, "count": count}:
            last = event.data["last_epoch"], event.data["last_sequence"]
            return Reported(camera, 0, count, *last)
        case {"kind": "unreported", "camera": camera, "defects": defects, "uninspected": others}:
            last = event.data["last_epoch"], event.data["last_sequence"]
            return Reported(camera, defects, others, *last)
    return None
