"""The worker: the one process that imports torch. Scores what lies in the ring until told to end.

python -m daemon.worker.process CONTROL_FD RING_FD
"""

import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import clearline
from daemon.worker.protocol import (
    PACKET,
    Failed,
    FromWorker,
    Load,
    Ready,
    RecipeFiles,
    Refused,
    Result,
    Score,
    Scored,
    decode_to_worker,
    encode,
)
from daemon.worker.ring import Ring
from model import bundle as bundles
from model import calibration as calibrations
from model.calibration import Calibration
from model.engine import Engine
from model.engine import Scored as Map
from model.errors import FrameShapeError
from model.judgement import Judgement, judge
from model.picture import heat
from model.quality import accepts
from model.regions import find


@dataclass(frozen=True)
class Recipe:
    engine: Engine
    calibration: Calibration


def main() -> None:
    # Ctrl-C reaches the whole process group, a service manager's SIGTERM every process; we end
    # when the daemon has no more for us, or is gone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    ring = Ring(int(sys.argv[2]))
    first = control.recv(PACKET)
    if not first:  # the daemon was stopped meanwhile
        return
    try:
        recipes = _load(decode_to_worker(first))
    except clearline.Error as error:
        control.send(encode(Failed(str(error))))
        return
    device = next(iter(recipes.values())).engine.device if recipes else "none"
    control.send(encode(Ready(str(device))))
    while packet := control.recv(PACKET):  # empty: the daemon closed its end, or is gone
        request = decode_to_worker(packet)
        if isinstance(request, Score):
            control.send(encode(_answer(ring, recipes[request.recipe], request)))


def _load(request: Load | Score) -> dict[str, Recipe]:
    if not isinstance(request, Load):
        raise clearline.Error("is not how a conversation begins", value=type(request).__name__)
    return {files.name: _recipe(files, request.device) for files in request.recipes}


def _recipe(files: RecipeFiles, device: str) -> Recipe:
    bundle = bundles.load(Path(files.bundle))
    calibration = calibrations.load(Path(files.calibration))
    calibration.require(bundle.hash, calibration.dtype, Path(files.calibration))
    return Recipe(Engine(bundle, device, calibration.dtype), calibration)


def _answer(ring: Ring, recipe: Recipe, request: Score) -> FromWorker:
    try:
        maps = recipe.engine.score([ring.pixels(f.pixels, f.format) for f in request.frames])
    except FrameShapeError as error:
        return Refused(request.batch, str(error))
    return Scored(
        request.batch, tuple(_result(ring, recipe, request, i, m) for i, m in enumerate(maps))
    )


def _result(ring: Ring, recipe: Recipe, request: Score, index: int, scored: Map) -> Result:
    threshold, frame = recipe.calibration.threshold, request.frames[index]
    sound = accepts(recipe.calibration.quality, scored.quality)
    judgement = judge(scored.score, threshold, sound=sound)
    regions = find(scored.defect_map, threshold)
    if judgement is Judgement.DEFECT:
        shown = ring.heat(frame.heat, frame.format.height, frame.format.width)
        shown[:] = heat(scored.defect_map, threshold)
    return Result(scored.score, threshold, judgement, regions)


if __name__ == "__main__":
    main()
