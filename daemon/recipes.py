"""RECIPES: which model judges a camera's next frame. Every model is resident in the worker.

A change falls on a part border, and that for the whole line: part numbers are the same at all
cameras. A part that any camera has shown before the asking is judged to its end, at every camera,
by what that camera had then. A part that was first exposed before the asking and is seen after it
may be of either product: where the two differ, all its frames are `changeover`. Any later part is
the new recipe's. A change that is called off is one like any other. Event loop.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from adapters.ports import Exposure, Reason

log = structlog.get_logger()

GENERATIONS = 64
"""Told apart. A frame from before them is of either product wherever the recipe changed since the
start."""
PARTS = 10_000
"""Remembered, over all cameras."""
SAME_PART_NS = 60 * 10**9
"""A number that was not seen for longer is another part: a PLC may begin anew."""


@dataclass(frozen=True, slots=True)
class Switched:
    camera: str
    before: str
    after: str
    took_ms: float
    """From the asking to the first frame of the new recipe."""


@dataclass(frozen=True, slots=True)
class _Asked:
    recipe: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class _Generation:
    """What stands from one asking to the next one."""

    since_ns: int
    asked: Mapping[str, _Asked | None]
    """By camera; None: it may be of more than one product."""

    def or_of(self, older: "_Generation") -> "_Generation":
        """For a part that may belong to either."""
        both = {c: asked if asked == older.asked[c] else None for c, asked in self.asked.items()}
        return _Generation(older.since_ns, both)


class Recipes:
    def __init__(
        self,
        known: Collection[str],
        start: Mapping[str, str],
        switched: Callable[[Switched], None],
    ) -> None:
        """`start`: each camera's first recipe."""
        self._known, self._switched = frozenset(known), switched
        self._asked = {camera: _Asked(recipe, 0) for camera, recipe in start.items()}
        self._now = dict(self._asked)
        """What each camera's newest frame so far was judged by."""
        self._generations = [_Generation(0, dict(self._asked))]
        self._parts = OrderedDict[int, tuple[_Generation, int]]()
        """The one last seen at the end; with its last `exposed_ns`."""

    def ask(self, recipe: str, cameras: Collection[str] | None = None) -> None:
        """Change all cameras, or some, at their next part. An unknown recipe is obeyed as well:
        its parts are not judged, since every model that is here would be the wrong one."""
        now_ns = time.monotonic_ns()
        cameras = self._asked if cameras is None else cameras
        changed = [camera for camera in cameras if self._asked[camera].recipe != recipe]
        if not changed:
            return
        if recipe not in self._known:
            for camera in changed:
                log.error("no such recipe", camera=camera, recipe=recipe, known=sorted(self._known))
        self._asked |= dict.fromkeys(changed, _Asked(recipe, now_ns))
        self._generations.append(_Generation(now_ns, dict(self._asked)))
        if len(self._generations) > GENERATIONS:
            del self._generations[1]  # what changed in it differs from the first, which stays

    def forget_parts(self) -> None:
        """The PLC counts anew: by its numbers it means other parts from now on."""
        self._parts.clear()

    def judging(self, exposure: Exposure) -> str | Reason:
        """The recipe of this frame, or why it has none. Once for each, in their order."""
        camera = exposure.id.camera
        asked = self._generation(exposure.part, exposure.exposed_ns).asked[camera]
        if asked is None:
            return Reason.CHANGEOVER
        before = self._now[camera]
        if asked.at_ns > before.at_ns:
            self._now[camera] = asked
            if asked.recipe != before.recipe:
                took_ms = (time.monotonic_ns() - asked.at_ns) / 1e6
                self._switched(Switched(camera, before.recipe, asked.recipe, took_ms))
        return asked.recipe if asked.recipe in self._known else Reason.NO_MODEL

    def _generation(self, part: int, exposed_ns: int) -> _Generation:
        """What the part belongs to: all that stood from its first exposure, as far as that is
        known, to when it was first seen here; mostly one."""
        generation, last_ns = self._parts.get(part, (self._generations[-1], exposed_ns))
        if exposed_ns - last_ns > SAME_PART_NS:
            generation = self._generations[-1]
        for older in reversed(self._generations):
            if generation.since_ns <= exposed_ns:
                break
            if older.since_ns < generation.since_ns:
                generation = generation.or_of(older)
        if part:
            self._parts[part] = generation, max(last_ns, exposed_ns)
            self._parts.move_to_end(part)
            if len(self._parts) > PARTS:
                self._parts.popitem(last=False)
        return generation

    def judging_now(self) -> dict[str, str]:
        """By camera."""
        return {camera: asked.recipe for camera, asked in self._now.items()}
