"""RECIPES: which model judges a camera's next frame. Every model is resident in the worker.

A change falls on a part border. The part that is under a camera when the change is asked for is
judged to its end by the model it began with; a part that was first exposed before the asking and
comes after it may be of either product, and all its frames are `changeover`; the next one is the
new recipe's. A change that is called off before it began is one like any other. Event loop.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from adapters.ports import Exposure, Reason

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Switched:
    camera: str
    before: str
    after: str
    took_ms: float
    """From the asking to the first frame of the new recipe."""


@dataclass(slots=True)
class _Camera:
    recipe: str
    part: int = 0
    """The last one judged."""
    between: int = 0
    """The last one that may be of either product."""
    wanted: str | None = None
    asked_ns: int = 0


class Recipes:
    def __init__(
        self,
        known: Collection[str],
        start: Mapping[str, str],
        switched: Callable[[Switched], None],
    ) -> None:
        """`start`: each camera's first recipe."""
        self._known, self._switched = frozenset(known), switched
        self._cameras = {camera: _Camera(recipe) for camera, recipe in start.items()}

    def ask(self, recipe: str, cameras: Collection[str] | None = None) -> None:
        """Change all cameras, or some, at their next part. An unknown recipe is obeyed as well:
        its parts are not judged, since every model that is here would be the wrong one."""
        for name in self._cameras if cameras is None else cameras:
            camera = self._cameras[name]
            if recipe == (camera.wanted or camera.recipe):
                continue
            if recipe not in self._known:
                log.error("no such recipe", camera=name, recipe=recipe, known=sorted(self._known))
            camera.wanted, camera.asked_ns = recipe, time.monotonic_ns()

    def judging(self, exposure: Exposure) -> str | Reason:
        """The recipe of this frame, or why it has none. Once for each, in their order."""
        camera, part = self._cameras[exposure.id.camera], exposure.part
        if camera.wanted is not None and not (part and part == camera.part):
            if exposure.exposed_ns < camera.asked_ns or (part and part == camera.between):
                camera.between = part
                return Reason.CHANGEOVER
            before, camera.recipe, camera.wanted = camera.recipe, camera.wanted, None
            camera.between = 0
            if camera.recipe != before:
                took_ms = (time.monotonic_ns() - camera.asked_ns) / 1e6
                self._switched(Switched(exposure.id.camera, before, camera.recipe, took_ms))
        camera.part = part
        return camera.recipe if camera.recipe in self._known else Reason.NO_MODEL

    def judging_now(self) -> dict[str, str]:
        """By camera."""
        return {name: camera.recipe for name, camera in self._cameras.items()}
