"""Events: what each kind is called, where it stands, what it says, and that it is small enough."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from adapters.ports import Event, Exposure, FrameId, Reason
from adapters.sinks.cloud_event import structured
from daemon import events
from daemon.events import MOST_REGIONS, Line, Model, Moment
from daemon.records.ledger import Counts, Unrecorded
from daemon.stations.chains import Chain
from daemon.stations.judge import Finding
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

MakeExposure = Callable[..., Exposure]
LINE = Line("site", "line", "c0ffee00")
NOW = Moment(1_785_312_000_123_456_789, 1_785_312_000_123_456_790)
HEAD = {"schema_version": 1, "event_time_ms": 1_785_312_000_123, "line": "line"}


def of_camera(kind: str, **data: Any) -> Event:
    return events.camera(LINE, "left", 3, kind, NOW, data)


def test_a_cameras_events_name_their_epoch_and_the_moment() -> None:
    event = of_camera("down", problem="no longer answers")
    id_ = "line/left/3/down/1785312000123456790"
    assert (event.id, event.type) == (id_, "clearline.camera.v1")
    assert (event.source, event.subject, event.key) == ("/site/line/left", "left", "line/left")
    assert (event.wall_ns, event.sequence) == (NOW.wall_ns, "0000000003-00000000000000000000")
    assert event.data == {
        **HEAD, "event_id": id_, "camera": "left", "kind": "down", "epoch": 3,
        "problem": "no longer answers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "kind"), [(Reason.LATE, "uninspected"), (Reason.CAMERA_GAP, "gap")]
)
def test_frames_that_were_not_judged_are_told_with_their_range(reason: Reason, kind: str) -> None:
    first, last = (FrameId("line", "left", 3, sequence) for sequence in (10, 14))
    event = events.uninspected(LINE, first, last, reason, 5, NOW)
    assert event.sequence == "0000000003-00000000000000000014"
    assert event.data == {
        **HEAD, "event_id": event.id, "camera": "left", "kind": kind, "epoch": 3,
        "reason": reason.value, "first_sequence": 10, "last_sequence": 14, "count": 5,
    }  # fmt: skip


def test_events_of_the_line_name_the_run_and_no_camera() -> None:
    event = events.of_line(LINE, "started", 4, NOW, {"cameras": ["left", "right"]})
    id_ = "line/4/started/1785312000123456790"
    assert (event.id, event.type) == (id_, "clearline.line.v1")
    assert (event.source, event.subject, event.key) == ("/site/line", "line", "line")
    assert event.sequence == "0000000004-01785312000123456790"
    assert event.data == {
        **HEAD, "event_id": id_, "kind": "started", "run": 4, "cameras": ["left", "right"],
    }  # fmt: skip


def test_an_unrecorded_range_says_between_which_frames() -> None:
    assert events.unrecorded(Unrecorded("left", (3, 17), (4, 2), 5)) == {
        "camera": "left", "reason": "daemon_restart", "after_epoch": 3, "after_sequence": 17,
        "last_epoch": 4, "last_sequence": 2, "count": 5,
    }  # fmt: skip


def test_a_summary_has_every_cameras_account() -> None:
    assert events.summary({"left": Counts(10, 6, 1, {Reason.LATE: 2}, 1)}) == {
        "cameras": {
            "left": {
                "received": 10, "ok": 6, "defect": 1, "uninspected": {"late": 2}, "in_flight": 1,
            }
        }
    }  # fmt: skip


def defect(chain: Chain, line: Line = LINE, model: str = "foil-a", **place: Any) -> Event:
    given = {"late": False, "mm_per_px": 0.1, "line_scan": False, **place}
    return events.defect(line, chain, model=Model(model, "9f2c1e0b", "11aa22bb"), **given)


def with_regions(exposure: Exposure, *regions: Region, ref: str | None = None) -> Chain:
    result = Result(1 / 3, 1 / 7, Judgement.DEFECT, regions)
    return Chain.of(exposure, 0, Finding(result, ref, "default", 64, ref), plc_sent=None)


def test_an_event_has_the_strongest_regions_and_says_how_many_there_were(
    exposure: MakeExposure,
) -> None:
    regions = [Region(3 * k, 5, 2, 2, 4, k / 100) for k in range(MOST_REGIONS + 5)]
    wide = Region(0, 50, 60, 3, 99, 0.0)
    data = defect(with_regions(exposure(0), wide, *regions)).data
    assert data["region_count"] == MOST_REGIONS + 6
    assert [r["score"] for r in data["regions"]] == [k / 100 for k in range(20, 4, -1)]
    assert data["max_region_area_px"] == 99  # also where it is not among them


def test_a_defect_without_a_region_has_no_largest_one(exposure: MakeExposure) -> None:
    data = defect(with_regions(exposure(2)), line_scan=True).data
    largest = {name: value for name, value in data.items() if name.startswith("max_region")}
    assert len(largest) == 6
    assert set(largest.values()) == {None}
    assert (data["region_count"], data["regions"], data["web_position_px"]) == (0, [], 128)


def test_on_a_web_without_a_scale_the_place_is_in_rows_only(exposure: MakeExposure) -> None:
    chain = with_regions(exposure(3), Region(0, 9, 2, 2, 4, 0.5), Region(0, 7, 2, 1, 2, 0.4))
    data = defect(chain, mm_per_px=None, line_scan=True).data
    assert (data["web_position_px"], data["web_position_mm"]) == (3 * 64 + 7, None)


def test_the_largest_event_stays_under_the_brokers_limit(exposure: MakeExposure) -> None:
    name = "n" * 32  # as long as the configuration lets one be
    shown = exposure(2**53, camera=name, epoch=2**31, part=2**53)
    shown = replace(shown, id=replace(shown.id, line=name))
    ref = "file:///" + "%C3%A4" * 2048  # a path as long as the system lets one be
    region = Region(16383, 16383, 16384, 16384, 2**28, 1 / 3)
    chain = with_regions(shown, *(region,) * 40, ref=ref)
    file_name = "m" * 255
    event = defect(chain, Line(name, name, "c0ffee00"), file_name, mm_per_px=1 / 3, line_scan=True)
    assert len(event.data["regions"]) == MOST_REGIONS
    assert len(json.dumps(structured(event))) < 64 * 1024
