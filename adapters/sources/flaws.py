"""What goes wrong with a surface: six kinds of defect, drawn in many sizes and strengths.

A flaw covers part of the surface and puts something else there: the surface with a tone added
(scratch, spot, stain), the surface smoothed along a direction (smear, missing thread), or what lies
behind it (hole). Levels are those of an 8-bit picture, 0..255; lengths follow the shorter side of
the frame, with minima in pixels that keep the smallest one visible.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A defect at its place. Rows count from the top of the web, columns from the frame's left."""

    kind: str
    top: int
    left: int
    cover: Field
    """(h, w) 0..1: how much of the surface is replaced."""
    tone: Field
    """(channels,) levels added to `base`."""
    base: Callable[[Field], Field]
    """What stands where the flaw covers: made from the surface below, (h, w, channels)."""

    @property
    def bottom(self) -> int:
        return self.top + len(self.cover)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.cover.shape[1])

    def clipped(self, top: int, bottom: int, width: int) -> "Flaw":
        """The part of it within rows top..bottom and columns 0..width."""
        rows = slice(max(top - self.top, 0), bottom - self.top)
        columns = slice(max(-self.left, 0), width - self.left)
        cover = self.cover[rows, columns]
        return Flaw(self.kind, max(top, self.top), max(self.left, 0), cover, self.tone, self.base)

    def change(self, surface: Field) -> Field:
        """What it adds to the surface below it; both (h, w, channels)."""
        return self.cover[..., None] * (self.base(surface) + self.tone - surface)


@dataclass(frozen=True, slots=True)
class _Sketch:
    cover: Field
    tone: float
    base: Callable[[Field], Field]


def draw(
    rng: Generator, first: int, height: int, width: int, channels: int, *, crossed: bool
) -> Flaw:
    """A defect of any kind with its middle in rows first..first+height; half may lie outside.

    The lines of the texture run down the rows; where it is `crossed`, across them too.
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    row, column = int(rng.integers(height)), int(rng.integers(width))
    scale = min(height, width)
    if kind == "missing_thread":
        sketch = _missing_thread(rng, scale, across=crossed and rng.random() < 0.5)
    else:
        sketch = _SKETCHES[kind](rng, scale)
    tint = rng.uniform(0.75, 1, channels) if channels > 1 else np.ones(1)
    rows, columns = sketch.cover.shape
    return Flaw(
        kind=kind,
        top=first + row - rows // 2,
        left=column - columns // 2,
        cover=sketch.cover,
        tone=(sketch.tone * tint).astype(np.float32),
        base=sketch.base,
    )


def _scratch(rng: Generator, scale: int) -> _Sketch:
    """A thin line, 1.5 to 4 px, slightly curved, bright or dark."""
    length = max(24.0, scale * rng.uniform(0.15, 0.7))
    angle, bend = rng.uniform(0, math.pi), length * rng.uniform(-0.12, 0.12)
    t = np.linspace(-1, 1, 33)
    along, aside = length / 2 * t, bend * (1 - t**2)
    points = np.stack(
        [
            along * math.cos(angle) - aside * math.sin(angle),
            along * math.sin(angle) + aside * math.cos(angle),
        ],
        axis=-1,
    )
    points += 5 - points.min(axis=0)
    width, height = (int(side) + 6 for side in points.max(axis=0))
    canvas = np.full((height, width), 255, np.uint8)
    cv2.polylines(canvas, [np.rint(points * 16).astype(np.int32)], False, 0, 1, cv2.LINE_8, 4)
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cover = np.clip(rng.uniform(1.5, 4) / 2 + 0.5 - distance, 0, 1)
    return _Sketch(_field(cover), _either(rng) * _strength(rng, 24, 75), _itself)


def _spot(rng: Generator, scale: int) -> _Sketch:
    """A small round speck with a fairly sharp edge, bright or dark."""
    radius = max(3.0, scale * rng.uniform(0.012, 0.05))
    cover = _blob(rng, radius, rough=0.1, soft=1.5)
    return _Sketch(cover, _either(rng) * _strength(rng, 22, 75), _itself)


def _stain(rng: Generator, scale: int) -> _Sketch:
    """A large, soft, irregular darkening, strongest near its rim as a dried liquid is."""
    radius = max(9.0, scale * rng.uniform(0.07, 0.2))
    cover = _blob(rng, radius, rough=0.4, soft=radius * rng.uniform(0.25, 0.6))
    return _Sketch(cover * (1.35 - 0.5 * cover), -_strength(rng, 19, 48), _itself)


def _smear(rng: Generator, scale: int) -> _Sketch:
    """The texture wiped in one direction, with a faint sheen left behind."""
    radius = max(10.0, scale * rng.uniform(0.06, 0.16))
    cover = _blob(rng, radius, rough=0.2, soft=radius * 0.3)
    reach = rng.uniform(6, 14)
    angle = rng.uniform(0, math.pi)
    wipe = _line_kernel(reach * math.cos(angle), reach * math.sin(angle))
    return _Sketch(cover, _either(rng) * _strength(rng, 10, 24), _wiped(wipe))


def _missing_thread(rng: Generator, scale: int, *, across: bool) -> _Sketch:
    """One line of the texture gone: a dark gap, in which nothing crosses any more."""
    length, width = int(max(32.0, scale * rng.uniform(0.3, 1.1))), rng.uniform(4, 7)
    aside = np.abs(np.arange(-8, 9))
    ends = np.minimum(np.arange(length), np.arange(length)[::-1])
    gap = np.outer(np.clip(width / 2 + 0.5 - aside, 0, 1), np.clip(ends / 4, 0, 1))
    wipe = _line_kernel(12, 0) if across else _line_kernel(0, 12)
    return _Sketch(_field(gap if across else gap.T), -_strength(rng, 18, 55), _wiped(wipe))


def _hole(rng: Generator, scale: int) -> _Sketch:
    """Nothing there: the dark behind the surface, with a sharp ragged edge."""
    radius = max(3.5, scale * rng.uniform(0.015, 0.06))
    return _Sketch(
        _blob(rng, radius, rough=0.4, soft=1.0, waves=9), rng.uniform(10, 45), np.zeros_like
    )


def _blob(rng: Generator, radius: float, *, rough: float, soft: float, waves: int = 6) -> Field:
    """A closed shape: (h, w) 1 inside, 0 outside. Its border is `soft` px wide and strays by
    `rough` of the radius, in up to `waves` bulges."""
    half = math.ceil(1.35 * radius * (1 + rough) + soft) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    squeeze = rng.uniform(0.75, 1.33)
    x, y = x * squeeze, y / squeeze
    angle, wobble = np.arctan2(y, x), np.zeros_like(x)
    for wave in range(2, waves + 1):
        wobble += rng.normal() / wave**0.8 * np.cos(wave * angle + rng.uniform(0, 2 * math.pi))
    border = 1 + rough * wobble / np.abs(wobble).max()
    inside = np.clip((radius * border - np.hypot(x, y)) / soft + 0.5, 0, 1)
    return _field(inside * inside * (3 - 2 * inside))


def _line_kernel(dx: float, dy: float) -> Field:
    """A mean along the line from (-dx, -dy) to (dx, dy), for filter2D."""
    half = math.ceil(max(abs(dx), abs(dy)))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    ends = [(round(half - dx), round(half - dy)), (round(half + dx), round(half + dy))]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return _field(kernel / kernel.sum())


def _wiped(kernel: Field) -> Callable[[Field], Field]:
    def base(surface: Field) -> Field:
        return _field(cv2.filter2D(surface, -1, kernel)).reshape(surface.shape)

    return base


def _itself(surface: Field) -> Field:
    return surface


def _strength(rng: Generator, weak: float, strong: float) -> float:
    """Levels, spread evenly over their ratio: a weak defect is as likely as a strong one."""
    return float(weak * (strong / weak) ** rng.random())


def _either(rng: Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _field(values: NDArray[np.generic]) -> Field:
    return values.astype(np.float32, copy=False)


_SKETCHES: dict[str, Callable[[Generator, int], _Sketch]] = {
    "scratch": _scratch,
    "spot": _spot,
    "stain": _stain,
    "smear": _smear,
    "hole": _hole,
}

KINDS = (*_SKETCHES, "missing_thread")
