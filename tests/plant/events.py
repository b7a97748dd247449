"""Events as a line tells them, one of each sort, numbered."""

import time
from dataclasses import replace
from typing import Any

from adapters.ports import Event, Exposure, FrameId, Reason
from daemon import events
from daemon.events import Line, Model, Moment
from daemon.records.ledger import Counts
from daemon.stations.chains import Chain
from daemon.stations.judge import Finding
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

TOPICS = ("clearline.defect.v1", "clearline.camera.v1", "clearline.line.v1")
MODEL = Model("foil-a@2026-07-14", "9f2c1e0b", "77aa0011")
REGIONS = (Region(4112, 170, 28, 22, 410, 0.83), Region(9, 7, 3, 2, 6, 0.7))
IMAGE = "file:///evidence/left.jpg"


def defect(number: int, camera: str = "left", line: str = "line3", **chain: Any) -> Event:
    """1.375 x threshold, 4.1 mm2 at (412.6, 18.1) mm."""
    exposure = Exposure(FrameId(line, camera, 17, number), 10**9, time.time_ns(), 2 * 10**9, 912345)
    result = Result(0.831188, 0.6045, Judgement.DEFECT, REGIONS)
    finding = Finding(result, IMAGE, "foil-a", 1024, IMAGE)
    one = replace(Chain.of(exposure, 1_038_200_000, finding, plc_sent=True), **chain)
    return events.defect(_line(line), one, model=MODEL, late=False, mm_per_px=0.1, line_scan=False)


def uninspected(
    number: int, camera: str = "left", line: str = "line3", reason: Reason = Reason.LATE
) -> Event:
    """Three frames, from this number on."""
    first, last = (FrameId(line, camera, 17, number + more) for more in (0, 2))
    return events.uninspected(_line(line), first, last, reason, 3, _now())


def of_camera(kind: str, camera: str = "left", **data: Any) -> Event:
    return events.camera(_line("line3"), camera, 17, kind, _now(), data)


def summary(received: int = 12, line: str = "line3") -> Event:
    """Of cameras left and right; two of left are late, all others ok."""
    counts = {
        "left": Counts(received, received - 2, 0, {Reason.LATE: 2}, 0),
        "right": Counts(received, received, 0, {}, 0),
    }
    return of_line("summary", line, **events.summary(counts))


def of_line(kind: str, line: str = "line3", **data: Any) -> Event:
    return events.of_line(_line(line), kind, 4, _now(), data)


def _line(name: str) -> Line:
    return Line("plant-1", name, "0123abcd")


def _now() -> Moment:
    return Moment(time.time_ns(), time.time_ns())
