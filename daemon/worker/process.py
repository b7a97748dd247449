"""The worker: the one process that imports torch. Scores what lies in the ring until told to end.

python -m daemon.worker.process CONTROL_FD RING_FD
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import clearline
from adapters.evidence_files import file_hash
from daemon.worker.protocol import (
    BEAT_SECONDS,
    PACKET,
    Alive,
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
from model.quality import fault
from model.regions import find

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


@dataclass(frozen=True)
class Recipe:
    engine: Engine
    calibration: Calibration


def main() -> None:
    # Ctrl-C reaches the whole process group, a service manager's SIGTERM every process; we end
    # when the daemon has no more for us, or is gone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # One that was stopped (SIGSTOP) would not see that the daemon is gone, and keep the device.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(ConnectionError):  # the daemon went away while we were busy
        _converse(control, Ring(int(sys.argv[2])))


def _converse(control: socket.socket, ring: Ring) -> None:
    """Until the daemon closes its end, or is gone."""
    first = control.recv(PACKET)
    if not first:  # it was stopped meanwhile
        return
    try:
        recipes = _load(decode_to_worker(first))
    except clearline.Error as error:
        control.send(encode(Failed(str(error))))
        return
    device = next(iter(recipes.values())).engine.device if recipes else "none"
    control.send(encode(Ready(str(device))))
    threading.Thread(target=_beat, args=(control,), name="beat", daemon=True).start()
    try:
        while packet := control.recv(PACKET):
            request = decode_to_worker(packet)
            if isinstance(request, Score):
                control.send(encode(_answer(ring, recipes[request.recipe], request)))
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it was, it ends this process)
        # After an error that nobody foresaw (no memory left, a device that broke) what is in this
        # process is not to be trusted: the daemon goes on with another one, and at once, so that
        # nothing is taken down in good order here.
        traceback.print_exc()
        control.send(encode(Failed(f"{type(error).__name__}: {error}".splitlines()[0])))
        os._exit(1)


def _beat(control: socket.socket) -> None:
    """A thread that says we are there, also while torch works; not while the process is stopped."""
    alive, never = encode(Alive()), threading.Event()
    with contextlib.suppress(OSError):  # the daemon is gone: the main thread finds out as well
        while not never.wait(BEAT_SECONDS):
            control.send(alive)


def _load(request: Load | Score) -> dict[str, Recipe]:
    if not isinstance(request, Load):
        raise clearline.Error("is not how a conversation begins", value=type(request).__name__)
    return {files.name: _recipe(files, request.device) for files in request.recipes}


def _recipe(files: RecipeFiles, device: str) -> Recipe:
    """Raises clearline.Error; also where a file was replaced since the daemon read it: events and
    pictures would name another model than the one that judges."""
    bundle_file, calibration_file = Path(files.bundle), Path(files.calibration)
    bundle = bundles.load(bundle_file)
    calibration = calibrations.load(calibration_file)
    for file, ours, theirs in (
        (bundle_file, bundle.hash, files.bundle_hash),
        (calibration_file, file_hash(calibration_file), files.calibration_hash),
    ):
        if ours != theirs:
            raise clearline.Error(
                "was replaced while the line ran; start the line again", file=file, key="sha256",
                value=ours[:12], expected=theirs[:12],
            )  # fmt: skip
    calibration.require(bundle.hash, calibration.dtype, calibration_file)
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
    quality = replace(scored.quality, change=frame.change)
    judgement = judge(scored.score, threshold, fault(recipe.calibration.quality, quality))
    regions = find(scored.defect_map, threshold)
    if judgement is Judgement.DEFECT:
        shown = ring.heat(frame.heat, frame.format.height, frame.format.width)
        shown[:] = heat(scored.defect_map, threshold)
    return Result(scored.score, threshold, judgement, regions)


if __name__ == "__main__":
    main()
