"""A worker that answers at once, without looking and without torch: what is left is the daemon's
own. Every frame is ok, or every so many-th a defect where PLANT_DEFECT_EVERY says so."""

import contextlib
import os
import socket
import sys
import threading

from daemon.worker.protocol import (
    BEAT_SECONDS,
    PACKET,
    Alive,
    Ready,
    Result,
    Score,
    Scored,
    decode_to_worker,
    encode,
)
from model.judgement import Judgement
from model.regions import Region

OK = Result(0.25, 0.5, Judgement.OK, ())
DEFECT = Result(0.75, 0.5, Judgement.DEFECT, (Region(8, 8, 12, 6, 40, 0.75),))


def beat(control: socket.socket) -> None:
    never = threading.Event()
    with contextlib.suppress(OSError):
        while not never.wait(BEAT_SECONDS):
            control.send(encode(Alive()))


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    if not control.recv(PACKET):
        return
    control.send(encode(Ready("nothing")))
    threading.Thread(target=beat, args=(control,), daemon=True).start()
    every, frames = int(os.environ.get("PLANT_DEFECT_EVERY", "0")), 0
    while packet := control.recv(PACKET):
        request = decode_to_worker(packet)
        if isinstance(request, Score):
            results = []
            for _ in request.frames:
                frames += 1
                results.append(DEFECT if every and frames % every == 0 else OK)
            control.send(encode(Scored(request.batch, tuple(results))))


if __name__ == "__main__":
    main()
