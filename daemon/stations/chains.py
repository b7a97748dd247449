"""CHAINS: a defect that runs over several strips of a line-scan web is told once.

The frames of a line-scan camera are strips of one web: a strip's last row is followed by the first
row of the next. Verdicts are each strip's own and wait for nothing; only the event is joined. Every
strip with a defect is in exactly one chain, and a chain ends with the first strip that does not go
on with it. Pure; event loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapters.ports import Exposure
from daemon.stations.judge import Finding
from model.regions import Region

TOUCH_ROWS = 4
"""A region that ends so near a border touches it: the coarsest scale of the defect map has one
value for 4 rows, and is weakest at the edge."""
MOST_STRIPS = 32
"""A defect along the whole web is told piece by piece."""
MOST_NS = 3_000_000_000
"""So long a chain may be open: until it is told it is in memory only, and a crash would lose it.
Cameras of 11 strips a second and more reach MOST_STRIPS before."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A region over all strips so far."""

    region: Region
    """From the upper left corner of the chain's first strip."""
    ends: Sequence[Region]
    """Where it touches the end of the last strip, in that strip's own rows."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What one defect event tells: strips in a row, or the one frame of any other camera."""

    exposure: Exposure
    """Of the first strip."""
    decided_ns: int
    """When that was found to be a defect."""
    plc_sent: bool | None
    """Every strip's verdict was given to a connected road; None: there is no PLC."""
    finding: Finding
    """The strongest strip's."""
    scored: Exposure
    """That strip, which names the event: its picture can be scored again."""
    scored_ns: int
    """When it was decided."""
    pieces: Sequence[Piece]
    strips: int = 1
    continues: bool = False
    """It was cut off at a limit: where the next strip goes on with it, the next event does."""

    @staticmethod
    def of(
        exposure: Exposure, decided_ns: int, finding: Finding, *, plc_sent: bool | None
    ) -> "Chain":
        """One frame."""
        end = finding.height - TOUCH_ROWS
        pieces = [
            Piece(region, (region,) if region.y + region.height >= end else ())
            for region in finding.result.regions
        ]
        return Chain(exposure, decided_ns, plc_sent, finding, exposure, decided_ns, pieces)

    @property
    def last_sequence(self) -> int:
        return self.exposure.id.sequence + self.strips - 1

    @property
    def regions(self) -> list[Region]:
        """From the upper left corner of the first strip, strongest first."""
        return sorted((piece.region for piece in self.pieces), key=lambda r: -r.score)

    @property
    def web_row(self) -> int:
        """Its topmost row, counted from the first row of the epoch's strip 0."""
        top = min((piece.region.y for piece in self.pieces), default=0)
        return self.exposure.id.sequence * self.finding.height + top

    @property
    def open(self) -> bool:
        """Some region touches the end of the last strip."""
        return any(piece.ends for piece in self.pieces)

    def followed_by(self, strip: "Chain") -> "Chain | None":
        """With one more strip; None where no region goes on in it, or where it is not the next."""
        next_ = replace(self.exposure.id, sequence=self.last_sequence + 1)
        one_web = self.finding.recipe, self.finding.height
        if strip.exposure.id != next_ or (strip.finding.recipe, strip.finding.height) != one_web:
            return None
        pieces = _join(self.pieces, strip.pieces, self.strips * self.finding.height)
        if len(pieces) == len(self.pieces) + len(strip.pieces):
            return None
        strongest = max(self, strip, key=lambda chain: chain.finding.result.score)
        return replace(
            self,
            plc_sent=self.plc_sent and strip.plc_sent,
            finding=strongest.finding,
            scored=strongest.scored,
            scored_ns=strongest.scored_ns,
            pieces=pieces,
            strips=self.strips + 1,
        )


class Chains:
    """One camera's, in the order of its verdicts. Each call returns what is to be told now."""

    def __init__(self) -> None:
        self._open: Chain | None = None

    def strip(self, strip: Chain) -> list[Chain]:
        """The next strip with a defect."""
        before, self._open = self._open, None
        joined = None if before is None else before.followed_by(strip)
        told = [] if before is None or joined is not None else [before]
        chain = joined or strip
        if not chain.open:
            return [*told, chain]
        if chain.strips == MOST_STRIPS:
            return [*told, replace(chain, continues=True)]
        self._open = chain
        return told

    def broken(self) -> list[Chain]:
        """What comes next is no strip with a defect, or nothing does."""
        chain, self._open = self._open, None
        return [] if chain is None else [chain]

    def overdue(self, now_ns: int) -> list[Chain]:
        """What has been open for too long; `now_ns` is monotonic."""
        if self._open is None or now_ns - self._open.decided_ns < MOST_NS:
            return []
        return [replace(chain, continues=True) for chain in self.broken()]


def _join(above: Sequence[Piece], below: Sequence[Piece], border: int) -> list[Piece]:
    """Both sides of a border, in one piece what touches there. `below`: one strip's, whose row 0 is
    the chain's row `border`."""
    ended = [piece for piece in above if not piece.ends]
    groups = [([piece], list[Piece]()) for piece in above if piece.ends]
    for new in below:
        met, apart = (list[Piece](), [new]), []
        for group in groups:
            if any(_meet(piece, new.region) for piece in group[0]):
                met[0].extend(group[0])
                met[1].extend(group[1])
            else:
                apart.append(group)
        groups = [*apart, met]
    return [*ended, *(_united(*group, border) for group in groups)]


def _meet(above: Piece, below: Region) -> bool:
    """Also where they are next to each other: regions hang together by their corners as well."""
    return below.y <= TOUCH_ROWS and any(
        end.x <= below.x + below.width and below.x <= end.x + end.width for end in above.ends
    )


def _united(above: Sequence[Piece], below: Sequence[Piece], border: int) -> Piece:
    lower = [replace(piece.region, y=piece.region.y + border) for piece in below]
    regions = [*(piece.region for piece in above), *lower]
    x, y = min(r.x for r in regions), min(r.y for r in regions)
    box = Region(
        x,
        y,
        max(r.x + r.width for r in regions) - x,
        max(r.y + r.height for r in regions) - y,
        sum(r.area for r in regions),
        max(r.score for r in regions),
    )
    return Piece(box, [end for piece in below for end in piece.ends])
