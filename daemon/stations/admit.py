"""ADMIT: which frames are worth scoring. What cannot be in time is turned away at once.

First in, first out would make every frame late once there are too many of them.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from adapters.ports import Exposure, Frame, FrameId, Reason
from daemon.recipes import Recipes
from daemon.stations.batch import BatchQueue
from daemon.stations.judge import Judge
from daemon.stations.publish import Publish
from daemon.stations.score import Score

log = structlog.get_logger()


class Admit:
    """The desk that cameras deliver to. On the event loop."""

    def __init__(
        self,
        judge: Judge,
        queue: BatchQueue,
        score: Score,
        publish: Publish,
        recipes: Recipes,
        release: Callable[[Frame], None],
    ) -> None:
        self._judge, self._queue, self._score, self._publish = judge, queue, score, publish
        self._recipes, self._release = recipes, release

    def frame(self, frame: Frame) -> None:
        self._judge.expect(frame.exposure)
        recipe = self._recipes.judging(frame.exposure)
        if isinstance(recipe, Reason):
            self._turn_away(frame, recipe)
            return
        frame = replace(frame, recipe=recipe)
        reason = self._against(frame)
        if reason is not None:
            self._turn_away(frame, reason)
            return
        self._queue.put(frame, time.monotonic_ns())
        self._score.pump()

    def _turn_away(self, frame: Frame, reason: Reason) -> None:
        self._judge.uninspected(frame.exposure, reason)
        self._release(frame)

    def unseen(self, exposure: Exposure, reason: Reason) -> None:
        self._judge.expect(exposure)
        self._judge.uninspected(exposure, reason)

    def missed(self, first: FrameId, last: FrameId, reason: Reason) -> None:
        """Frames that are known by their numbers only, and whose time is over."""
        self._publish.missed(first, last, reason)

    def camera_up(self, camera: str, epoch: int) -> None:
        log.info("camera up", camera=camera, epoch=epoch)
        self._publish.camera(camera, epoch, "up", None)

    def camera_down(self, camera: str, epoch: int, problem: str) -> None:
        log.warning("camera down", camera=camera, epoch=epoch, problem=problem)
        self._publish.camera(camera, epoch, "down", problem)

    def _against(self, frame: Frame) -> Reason | None:
        if not self._score.ready:
            return Reason.WORKER_RESTART
        now_ns = time.monotonic_ns()
        if frame.exposure.deadline_ns <= now_ns:
            return Reason.LATE  # it was under way too long, or we were away
        if self._score.idle:
            # It costs no other frame anything, and only so is a wrong estimate ever put right.
            return None
        finish_ns = self._score.finish_ns(frame, now_ns)
        return Reason.OVERLOAD if finish_ns > frame.exposure.deadline_ns else None
