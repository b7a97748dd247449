"""What the plant is told, as CloudEvents with a flat JSON object each. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.ports import Event, FrameId, Reason
from daemon.records.ledger import Counts, Unrecorded
from daemon.records.outbox_file import Damage, Shed
from daemon.records.outbox_schema import KINDS
from daemon.records.reported import Reported
from daemon.stations.chains import Chain
from model.regions import Region

SCHEMA_VERSION = 1
_RANGE = ("after", "last")
MOST_REGIONS = 16
"""In one event, the strongest; an event stays under 64 KiB."""


@dataclass(frozen=True, slots=True)
class Model:
    """Which model judged, as events name it."""

    name: str
    hash: str
    """The first 8 digits of the bundle's."""
    calibration_hash: str
    """As many of the calibration's."""


@dataclass(frozen=True, slots=True)
class Line:
    site: str
    name: str
    configuration_hash: str
    """8 digits."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was said."""

    wall_ns: int
    order_ns: int
    """The same, but always later than in any event before, also where the clock was set back: ids
    are made of it, and never repeat."""


def defect(
    line: Line,
    chain: Chain,
    *,
    model: Model,
    late: bool,
    mm_per_px: float | None,
    line_scan: bool,
) -> Event:
    """`late`: it was found after the frame's verdict, which was `uninspected`."""
    exposure, finding, regions = chain.scored, chain.finding, chain.regions
    result, frame = finding.result, exposure.id
    largest = max(regions, key=lambda r: r.area, default=None)
    web_px = chain.web_row if line_scan else None
    data = {
        "verdict": "defect",
        "late": late,
        "epoch": frame.epoch,
        "sequence": frame.sequence,
        "part_id": exposure.part,
        "score": _digits(result.score),
        "threshold": _digits(result.threshold),
        "score_ratio": round(result.score / result.threshold, 3) if result.threshold else None,
        "latency_ms": round((chain.scored_ns - exposure.exposed_ns) / 1e6, 1),
        "plc_sent": chain.plc_sent,
        "strips": chain.strips,
        "first_sequence": chain.exposure.id.sequence,
        "last_sequence": chain.last_sequence,
        "continues": chain.continues,
        "region_count": len(regions),
        **_largest(largest, mm_per_px),
        "web_position_mm": _scaled(web_px, mm_per_px),
        "web_position_px": web_px,
        "model": model.name,
        "model_hash": model.hash,
        "calibration_hash": model.calibration_hash,
        "configuration_hash": line.configuration_hash,
        "image_ref": finding.image_ref,
        "frame_ref": finding.frame_ref,
        "regions": [_region(region, mm_per_px) for region in regions[:MOST_REGIONS]],
    }
    place = _sequence(frame.epoch, frame.sequence)
    return _event("defect", str(frame), line, frame.camera, exposure.wall_ns, place, data)


def camera(
    line: Line,
    name: str,
    epoch: int,
    kind: str,
    moment: Moment,
    data: Mapping[str, Any],
    *,
    last: int = 0,
) -> Event:
    """`kind`: up, down, gap, uninspected or set_aside; `data` says more. `last`: the sequence of
    the last frame that it is about, 0 where it is about none."""
    id_ = f"{line.name}/{name}/{epoch}/{kind}/{moment.order_ns}"
    flat = {"kind": kind, "epoch": epoch, **data}
    return _event("camera", id_, line, name, moment.wall_ns, _sequence(epoch, last), flat)


def uninspected(
    line: Line, first: FrameId, last: FrameId, reason: Reason, count: int, moment: Moment
) -> Event:
    """Frames in a row of one camera that were not judged, for one reason."""
    kind = "gap" if reason is Reason.CAMERA_GAP else "uninspected"
    data = {
        "reason": reason.value,
        "first_sequence": first.sequence,
        "last_sequence": last.sequence,
        "count": count,
    }
    return camera(line, first.camera, first.epoch, kind, moment, data, last=last.sequence)


def of_line(line: Line, kind: str, run: int, moment: Moment, data: Mapping[str, Any]) -> Event:
    """`kind`: started, stopped, summary, model_changed, alarm, unrecorded, unreported, drift, shed
    or outbox_replaced; `run` counts the daemon's starts."""
    name = f"{run}/{kind}/{moment.order_ns}"
    if kind in ("unrecorded", "unreported"):  # a crash may make us say it again: the same id then
        after, last = (f"{data[f'{end}_epoch']}-{data[f'{end}_sequence']}" for end in _RANGE)
        name = f"{data['camera']}/{kind}/{after}/{last}"
    id_ = f"{line.name}/{name}"
    place = _sequence(run, moment.order_ns)
    flat = {"kind": kind, "run": run, **data}
    return _event("line", id_, line, line.name, moment.wall_ns, place, flat)


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


def unreported(
    told: Reported, defects: int, uninspected: int, last: tuple[int, int]
) -> dict[str, Any]:
    """Verdicts that were given, and that a crash kept from being told. `last`: the last frame's
    epoch and sequence."""
    return {
        "camera": told.camera,
        "after_epoch": told.epoch,
        "after_sequence": told.sequence,
        "last_epoch": last[0],
        "last_sequence": last[1],
        "defects": max(0, defects - told.defects),
        "uninspected": max(0, uninspected - told.uninspected),
    }


def shed(loss: Shed) -> dict[str, Any]:
    events = {kind: loss.events[kind] for kind in KINDS}
    return {
        "since_ms": loss.since_ns // 1_000_000,
        "events": events,
        "pictures": 0,
        "reason": loss.reason,
    }


def shed_pictures(since_ns: int, frames: int) -> dict[str, Any]:
    """Of so many frames, since that moment of Unix time."""
    return {
        "since_ms": since_ns // 1_000_000,
        "events": dict.fromkeys(KINDS, 0),
        "pictures": frames,
        "reason": "the disk is short of room, or pictures come too fast",
    }


def outbox_replaced(damage: Damage) -> dict[str, Any]:
    return {
        "file": damage.set_aside,
        "problem": damage.problem,
        "saved": damage.saved,
        "lost": damage.lost_at_most,
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
    kind: str,
    id_: str,
    line: Line,
    subject: str,
    wall_ns: int,
    sequence: str,
    data: Mapping[str, Any],
) -> Event:
    flat = {
        "schema_version": SCHEMA_VERSION,
        "event_id": id_,
        "event_time_ms": wall_ns // 1_000_000,
        "line": line.name,
    }
    if kind != "line":
        flat["camera"] = subject
    key = line.name if kind == "line" else f"{line.name}/{subject}"
    source = f"/{line.site}/{key}"
    return Event(id_, _TYPES[kind], source, subject, key, wall_ns, flat | dict(data), sequence)


_TYPES: Mapping[str, Any] = {
    "defect": "clearline.defect.v1",
    "camera": "clearline.camera.v1",
    "line": "clearline.line.v1",
}


def _sequence(major: int, minor: int) -> str:
    """Orders as text."""
    return f"{major:010d}-{minor:020d}"


def _largest(region: Region | None, mm_per_px: float | None) -> dict[str, float | None]:
    """The largest region's size and middle, in millimetres where the camera has a scale."""
    area, x, y = None, None, None
    if region is not None:
        area, x, y = region.area, region.x + region.width / 2, region.y + region.height / 2
    return {
        "max_region_area_mm2": _scaled(area, mm_per_px, power=2),
        "max_region_area_px": area,
        "max_region_x_mm": _scaled(x, mm_per_px),
        "max_region_x_px": x,
        "max_region_y_mm": _scaled(y, mm_per_px),
        "max_region_y_px": y,
    }


def _region(region: Region, mm_per_px: float | None) -> dict[str, Any]:
    box = {"x": region.x, "y": region.y, "w": region.width, "h": region.height}
    return {
        **{f"{side}_mm": _scaled(px, mm_per_px) for side, px in box.items()},
        **{f"{side}_px": px for side, px in box.items()},
        "area_mm2": _scaled(region.area, mm_per_px, power=2),
        "area_px": region.area,
        "score": _digits(region.score),
    }


def _digits(score: float) -> float:
    """Scores may be of any size: so many digits, not so many decimals."""
    return float(f"{score:.7g}")


def _scaled(px: float | None, mm_per_px: float | None, *, power: int = 1) -> float | None:
    """In millimetres to 3 digits, or their square to 4; None without a scale."""
    return None if px is None or mm_per_px is None else round(px * mm_per_px**power, 2 + power)
