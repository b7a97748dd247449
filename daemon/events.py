"""What the plant is told, as CloudEvents with a flat JSON object each. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.ports import Event, Exposure, FrameId, Reason
from daemon.records.ledger import Counts, Unrecorded
from daemon.stations.judge import Finding
from model.regions import Region

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Model:
    """Which model judged, as events name it."""

    name: str
    hash: str
    """The first 8 digits of the bundle's."""


@dataclass(frozen=True, slots=True)
class Line:
    site: str
    name: str


def defect(
    line: Line,
    exposure: Exposure,
    finding: Finding,
    *,
    model: Model,
    latency_ms: float,
    late: bool,
    mm_per_px: float | None,
) -> Event:
    """`late`: it was found after the frame's verdict, which was `uninspected`."""
    result, frame = finding.result, exposure.id
    largest = max(result.regions, key=lambda r: r.area, default=None)
    data = {
        "verdict": "defect",
        "late": late,
        "epoch": frame.epoch,
        "sequence": frame.sequence,
        "part_id": exposure.part,
        "score": round(result.score, 6),
        "threshold": round(result.threshold, 6),
        "score_ratio": round(result.score / result.threshold, 3) if result.threshold else None,
        "latency_ms": round(latency_ms, 1),
        "region_count": len(result.regions),
        **_largest(largest, mm_per_px),
        "model": model.name,
        "model_hash": model.hash,
        "image_ref": finding.image_ref,
        "regions": [_region(region, mm_per_px) for region in result.regions],
    }
    return _event("defect", str(frame), line, frame.camera, exposure.wall_ns, data)


def camera(
    line: Line, name: str, epoch: int, kind: str, wall_ns: int, data: Mapping[str, Any]
) -> Event:
    """`kind`: up, down, gap, uninspected or set_aside; `data` says more."""
    id_ = f"{line.name}/{name}/{epoch}/{kind}/{wall_ns}"
    return _event("camera", id_, line, name, wall_ns, {"kind": kind, "epoch": epoch, **data})


def uninspected(
    line: Line, first: FrameId, last: FrameId, reason: Reason, count: int, wall_ns: int
) -> Event:
    """Frames in a row of one camera that were not judged, for one reason."""
    kind = "gap" if reason is Reason.CAMERA_GAP else "uninspected"
    data = {
        "reason": reason.value,
        "first_sequence": first.sequence,
        "last_sequence": last.sequence,
        "count": count,
    }
    return camera(line, first.camera, first.epoch, kind, wall_ns, data)


def of_line(line: Line, kind: str, run: int, wall_ns: int, data: Mapping[str, Any]) -> Event:
    """`kind`: started, stopped, model_changed, alarm, unrecorded or summary; `run` counts the
    daemon's starts."""
    id_ = f"{line.name}/{run}/{kind}/{wall_ns}"
    return _event("line", id_, line, line.name, wall_ns, {"kind": kind, "run": run, **data})


def unrecorded(gap: Unrecorded) -> dict[str, Any]:
    return {
        "camera": gap.camera,
        "reason": Reason.DAEMON_RESTART.value,
        "after_epoch": gap.after[0],
        "after_sequence": gap.after[1],
        "last_epoch": gap.last[0],
        "last_sequence": gap.last[1],
        "count": gap.count,
    }


def summary(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {
        "cameras": {
            name: {
                "received": c.received,
                "ok": c.ok,
                "defect": c.defect,
                "uninspected": {reason.value: n for reason, n in c.uninspected.items()},
                "in_flight": c.in_flight,
            }
            for name, c in counts.items()
        }
    }


def _event(
    kind: str, id_: str, line: Line, subject: str, wall_ns: int, data: Mapping[str, Any]
) -> Event:
    flat = {
        "schema_version": SCHEMA_VERSION,
        "event_id": id_,
        "event_time_ms": wall_ns // 1_000_000,
        "line": line.name,
    }
    if subject != line.name or kind != "line":
        flat["camera"] = subject
    key = line.name if kind == "line" else f"{line.name}/{subject}"
    type_ = _TYPES[kind]
    return Event(id_, type_, f"/{line.site}/{key}", subject, key, wall_ns, flat | dict(data))


_TYPES: Mapping[str, Any] = {
    "defect": "clearline.defect.v1",
    "camera": "clearline.camera.v1",
    "line": "clearline.line.v1",
}


def _largest(region: Region | None, mm_per_px: float | None) -> dict[str, float | None]:
    """The largest region's size and middle, in millimetres where the camera has a scale."""
    in_px: dict[str, float | None] = {"area": None, "x": None, "y": None}
    if region is not None:
        x, y = region.x + region.width / 2, region.y + region.height / 2
        in_px = {"area": region.area, "x": x, "y": y}
    named: dict[str, float | None] = {}
    for name, px in in_px.items():
        power = 2 if name == "area" else 1
        mm = None if px is None or mm_per_px is None else round(px * mm_per_px**power, 3)
        named[f"max_region_{name}_mm{'2' if power == 2 else ''}"] = mm
        named[f"max_region_{name}_px"] = px
    return named


def _region(region: Region, mm_per_px: float | None) -> dict[str, Any]:
    box = {"x": region.x, "y": region.y, "w": region.width, "h": region.height}
    scaled = {
        f"{side}_mm": None if mm_per_px is None else round(value * mm_per_px, 3)
        for side, value in box.items()
    }
    area_mm2 = None if mm_per_px is None else round(region.area * mm_per_px**2, 4)
    return {
        **scaled,
        **{f"{side}_px": value for side, value in box.items()},
        "area_mm2": area_mm2,
        "area_px": region.area,
        "score": round(region.score, 6),
    }
