"""A product that does not exist: woven cloth, brushed metal or wood, its defects and the truth.

A picture is a pure function of the product and its number: the surface's reflectance times the
light of the lamp, plus the sensor's noise. Reflectance is cut from one large texture that is drawn
once; the noise of each row is cut from one long tape, where a hash of the row says. So consecutive
strips fit without a seam.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

from adapters.errors import SourceUrlError
from adapters.ports import FrameFormat, Pixels
from adapters.sources import flaws
from adapters.sources.flaws import Field, Flaw

VISIBLE = 7.5
"""Levels of 255, three times the sensor's noise: what a pixel must change by to count as defect."""

_WHITE = {"uint8": 255, "uint16": 4095}
_WEB_ROWS = 2048
"""After so many rows the texture of an endless web repeats (noise and defects do not)."""
_ROOM = 1024
"""Pixels by which the texture of single parts is larger than a part: room for their positions."""


@dataclass(frozen=True, slots=True)
class Part:
    """One picture and the truth about it."""

    pixels: Pixels
    """(height, width, channels)"""
    mask: NDArray[np.bool_]
    """(height, width): where the defect changed a channel by more than VISIBLE."""
    defect: str | None
    """Its kind; of several in one strip the one that changed most."""
    contrast: float
    """Mean change within the mask, levels of 255; 0 where there is no defect."""


@dataclass(frozen=True)
class SimulatedProduct:
    """Parts that lie a little differently each time, or (`strips`) an endless web in frames.

    `defect_rate` is the share of parts with a defect; of strips, the share in which one has its
    middle: where it crosses the border, the neighbour shows the rest. 16 bit means values 0..4095.
    """

    kind: Literal["woven", "grain", "wood"]
    height: int
    width: int
    channels: Literal[1, 3] = 1
    dtype: Literal["uint8", "uint16"] = "uint8"
    seed: int = 0
    defect_rate: float = 0.0
    contrast: float = 1.0
    """Factor on how much a defect changes the surface; at 1 the weakest need a second look."""
    strips: bool = False

    def __post_init__(self) -> None:
        sizes = range(64, 16385)
        for key, right, expected in (
            ("kind", self.kind in _TEXTURES, " or ".join(_TEXTURES)),
            ("height", self.height in sizes, "64 to 16384 pixels"),
            ("width", self.width in sizes, "64 to 16384 pixels"),
            ("channels", self.channels in (1, 3), "1 or 3"),
            ("dtype", self.dtype in ("uint8", "uint16"), "uint8 or uint16"),
            ("seed", self.seed >= 0, "a whole number from 0"),
            ("contrast", 0 < self.contrast <= 10, "a factor over 0, to 10"),
            ("defect_rate", 0 <= self.defect_rate <= 1, "a share from 0 to 1"),
        ):
            if not right:
                given = getattr(self, key)
                raise SourceUrlError("is not possible", key=key, value=given, expected=expected)

    @property
    def format(self) -> FrameFormat:
        return FrameFormat(self.height, self.width, self.channels, self.dtype)

    def part(self, k: int) -> Part:
        """The k-th part, or web rows k*height to (k+1)*height: the same in any process or order."""
        top, bottom = k * self.height, (k + 1) * self.height
        surface, noise = self._surface(k, top, bottom), self._noise(top, bottom)
        good = self._exposed(k, surface, noise)
        kind, most = None, 0.0
        for flaw in self._flaws(k):
            change = flaw.change(self._surface(k, flaw.top, flaw.bottom)[:, flaw.columns])
            change *= np.float32(self.contrast)
            shown = change[max(top - flaw.top, 0) : bottom - flaw.top]
            surface[max(flaw.top - top, 0) : flaw.bottom - top, flaw.columns] += shown
            if (size := float(np.abs(shown).sum())) > most:
                kind, most = flaw.kind, size
        if kind is None:
            return Part(good, np.zeros(good.shape[:2], np.bool_), None, 0.0)
        marked = self._exposed(k, surface, noise)
        planes = cv2.split(cv2.absdiff(good, marked))
        change = np.maximum.reduce(planes) * (255 / _WHITE[self.dtype])
        mask = change > VISIBLE
        if not mask.any():
            return Part(good, mask, None, 0.0)
        return Part(marked, mask, kind, float(change[mask].mean()))

    def _surface(self, k: int, top: int, bottom: int) -> Field:
        """Reflectance of some rows around part k: (rows, width, channels), levels of 255."""
        if self.strips:
            web = _texture(self.kind, _WEB_ROWS, self.width, self.channels, self.seed)
            return web[np.arange(top, bottom) % _WEB_ROWS].astype(np.float32)
        rows = math.ceil((self.height + _ROOM) / 512) * 512
        texture = _texture(self.kind, rows, self.width + _ROOM, self.channels, self.seed)
        rng = np.random.default_rng([self.seed, k, 0])
        turn = math.radians(rng.uniform(-0.4, 0.4))
        margin = 2 + 0.01 * max(self.height, self.width)
        y = rng.uniform(margin, rows - self.height - margin)
        x = rng.uniform(margin, _ROOM - margin)
        cos, sin = math.cos(turn), math.sin(turn)
        pose = np.array([[cos, -sin, x], [sin, cos, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        whole = cv2.warpAffine(texture, pose, (self.width, self.height), flags=flags)
        first = k * self.height
        return whole.reshape(self.format.shape)[top - first : bottom - first].astype(np.float32)

    def _exposed(self, k: int, surface: Field, noise: Field) -> Pixels:
        """What the sensor makes of the surface under the lamp."""
        gain = 1.0 if self.strips else np.random.default_rng([self.seed, k, 1]).uniform(0.96, 1.04)
        level = surface * (_light(self.format, self.strips) * np.float32(gain))
        level += noise * (1.2 + level * 0.01)
        level *= _WHITE[self.dtype] / 255
        return np.clip(np.rint(level, out=level), 0, _WHITE[self.dtype], out=level).astype(
            self.dtype
        )

    def _noise(self, top: int, bottom: int) -> Field:
        """Standard normal noise of these rows, no pixel beyond 3: (rows, width, channels)."""
        length = self.width * self.channels
        windows = sliding_window_view(_tape(), length)
        starts = _hash(np.arange(top, bottom, dtype=np.uint64), self.seed) % len(windows)
        return windows[starts].reshape(bottom - top, self.width, self.channels)

    def _flaws(self, k: int) -> Iterator[Flaw]:
        """The defects that part k may show: its own, and on a web those of its neighbours."""
        top, bottom = k * self.height, (k + 1) * self.height
        for cell in range(max(k - 1, 0), k + 2) if self.strips else (k,):
            rng = np.random.default_rng([self.seed, cell, 2])
            if rng.random() < self.defect_rate:
                place = (cell * self.height, self.height, self.width)
                flaw = flaws.draw(rng, *place, self.channels, crossed=self.kind == "woven")
                rows = (flaw.top, flaw.bottom) if self.strips else (top, bottom)
                if flaw.top < bottom and flaw.bottom > top:
                    yield flaw.clipped(*rows, self.width)


@lru_cache(maxsize=4)
def _texture(kind: str, rows: int, columns: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Reflectance, (rows, columns, channels), the last row fitting to the first again."""
    shade, blend = _TEXTURES[kind](np.random.default_rng(seed), rows, columns)
    colours = np.array(_COLOURS[kind], np.float32)
    if channels == 1:
        colours = colours @ np.array([[0.299], [0.587], [0.114]], np.float32)
    first, second = colours
    picture = shade[..., None] * (first + blend[..., None] * (second - first))
    ends = np.pad(picture, ((4, 4), (0, 0), (0, 0)), mode="wrap")
    seen = cv2.GaussianBlur(ends, (0, 0), 0.7)[4:-4].reshape(rows, columns, channels)
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


def _woven(rng: Generator, rows: int, columns: int) -> tuple[Field, Field]:
    """Plain weave: threads of both directions, 8 px apart, over and under each other in turn."""
    y, x = (axis.astype(np.float32) for axis in np.ogrid[:rows, :columns])
    warp_at = (x + 0.5 * _smooth(rng, rows, columns, 64, 16)) / 8
    weft_at = (y + 0.5 * _smooth(rng, rows, columns, 16, 64)) / 8
    warp, weft = np.sin(np.pi * warp_at), np.sin(np.pi * weft_at)
    over = warp * weft
    warp_height = np.sqrt(np.abs(warp)) * (0.62 + 0.38 * over)
    weft_height = np.sqrt(np.abs(weft)) * (0.62 - 0.38 * over)
    blend = np.clip((weft_height - warp_height) * 4 + 0.5, 0, 1)
    warp_yarn = _smooth(rng, rows, columns, 64, 8) + 0.7 * _smooth(rng, rows, columns, 8, 1)
    weft_yarn = _smooth(rng, rows, columns, 8, 64) + 0.7 * _smooth(rng, rows, columns, 1, 8)
    yarn = warp_yarn + blend * (weft_yarn - warp_yarn)
    shade = (0.35 + 0.65 * np.maximum(warp_height, weft_height)) * (1 + 0.05 * yarn)
    return shade.astype(np.float32), blend.astype(np.float32)


def _grain(rng: Generator, rows: int, columns: int) -> tuple[Field, Field]:
    """Brushed metal: streaks of many widths along the web."""
    streaks = (
        0.5 * _smooth(rng, rows, columns, 256, 8)
        + 0.8 * _smooth(rng, rows, columns, 128, 2)
        + 0.8 * _smooth(rng, rows, columns, 64, 1)
    )
    return 1 + 0.02 * _smooth(rng, rows, columns, 256, 256), np.clip(0.5 + 0.16 * streaks, 0, 1)


def _wood(rng: Generator, rows: int, columns: int) -> tuple[Field, Field]:
    """A sawn board: rings that darken slowly and end sharply, with fibres along them."""
    bend = 20 * _smooth(rng, rows, columns, 256, 128) + 3 * _smooth(rng, rows, columns, 64, 16)
    age = (np.arange(columns) + bend) / 26 % 1
    ring = np.where(age < 0.85, (age / 0.85) ** 2.5, (1 - age) / 0.15)
    fibres = _smooth(rng, rows, columns, 32, 1) + _smooth(rng, rows, columns, 64, 2)
    pores = np.clip(_smooth(rng, rows, columns, 16, 1) - 1.9, 0, 1)
    return 1 + 0.027 * fibres - 0.2 * pores, (0.85 * ring).astype(np.float32)


def _smooth(rng: Generator, rows: int, columns: int, down: int, right: int) -> Field:
    """Smooth noise of about unit variance, waves of `down` x `right` px, without a seam in rows."""
    lattice = rng.standard_normal((rows // down, columns // right + 5), np.float32)
    lattice = np.pad(np.clip(lattice, -2.5, 2.5), ((2, 2), (0, 0)), mode="wrap")
    fine = cv2.resize(lattice, None, fx=right, fy=down, interpolation=cv2.INTER_CUBIC)
    return fine[2 * down : 2 * down + rows, 2 * right : 2 * right + columns].astype(np.float32)


@lru_cache(maxsize=16)
def _light(frame: FrameFormat, line: bool) -> Field:
    """The lamp's fall-off, the same in every frame: (height, or 1 in a line, width, channels)."""
    y = np.zeros((1, 1)) if line else np.linspace(-0.9, 1.1, frame.height)[:, None]
    x = np.linspace(-1.05, 0.95, frame.width)
    light = (1 - 0.1 * (x * x + y * y)).astype(np.float32)
    return np.repeat(light[..., None], frame.channels, axis=-1)


@lru_cache(maxsize=1)
def _tape() -> Field:
    return np.random.default_rng(0).standard_normal(1 << 18, np.float32).clip(-3, 3)


def _hash(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Scatters row numbers over 64 bits (splitmix64), so that any row's noise is found directly."""
    mixed = rows + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


_TEXTURES: dict[str, Callable[[Generator, int, int], tuple[Field, Field]]] = {
    "woven": _woven,
    "grain": _grain,
    "wood": _wood,
}
_COLOURS = {
    "woven": ((104, 128, 170), (204, 198, 184)),
    "grain": ((104, 106, 110), (186, 184, 178)),
    "wood": ((206, 164, 114), (128, 82, 46)),
}
"""RGB between which `blend` chooses: warp and weft, dull and bright, early and late wood."""
