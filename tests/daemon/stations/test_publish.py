"""PUBLISH: each verdict at once, each defect as one event, uninspected frames in runs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.ports import Event, Exposure, Outcome, Reason, Verdict
from adapters.sinks.jsonl import cloud_event
from daemon import events
from daemon.events import Line, Model
from daemon.records.ledger import Counts, Ledger, Unrecorded
from daemon.stations.judge import Finding
from daemon.stations.publish import Place, Publish
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

MakeExposure = Callable[..., Exposure]
SMALL, LARGE = Region(100, 40, 10, 6, 30, 0.9), Region(8, 12, 20, 10, 120, 0.7)
FOUND = Finding(Result(0.9, 0.5, Judgement.DEFECT, (SMALL, LARGE)), "file:///a.png", "default")


class Plant:
    """Everyone who is told."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.verdicts: list[Verdict] = []
        self.order: list[str] = []
        ledger = Ledger(folder / "ledger")
        self.accounts = {name: ledger.account(name) for name in ("left", "right")}
        model = Model("foil-a", "9f2c1e0b")
        places = {
            "left": Place(self.accounts["left"], {"default": model}, 0.1),
            "right": Place(self.accounts["right"], {"default": model}, None),
        }
        self.publish = Publish(Line("site", "line"), 7, places, (self,), self)  # type: ignore[arg-type]

    def tell(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self.order.append("verdict")

    def put(self, event: Event) -> None:
        self.events.append(event)
        self.order.append("event")

    def say(
        self, exposure: Exposure, outcome: Outcome = Outcome.OK, reason: Reason | None = None,
        finding: Finding | None = None,
    ) -> None:  # fmt: skip
        self.accounts[exposure.id.camera].receive(exposure.id)
        verdict = Verdict(exposure, outcome, reason, 0.1, 0.5, time.monotonic_ns())
        self.publish.verdict(verdict, finding)

    def missed(self, exposure: Exposure, reason: Reason) -> None:
        self.say(exposure, Outcome.UNINSPECTED, reason)

    def runs(self) -> list[tuple[str, str, int, int, int, int]]:
        return [
            (
                d["camera"],
                d["reason"],
                d["epoch"],
                d["first_sequence"],
                d["last_sequence"],
                d["count"],
            )
            for d in (event.data for event in self.events)
            if d.get("kind") == "uninspected"
        ]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_every_verdict_is_counted_and_told_at_once(plant: Plant, exposure: MakeExposure) -> None:
    plant.say(exposure(0))
    plant.missed(exposure(1), Reason.LATE)
    plant.say(exposure(2), Outcome.DEFECT, None, FOUND)
    assert [v.exposure.id.sequence for v in plant.verdicts] == [0, 1, 2]
    counts = plant.accounts["left"].counts()
    assert (counts.ok, counts.defect, counts.uninspected) == (1, 1, {Reason.LATE: 1})
    assert counts.in_flight == 0
    assert plant.order[-1] == "event"  # the gate is told before the plant


def test_a_good_frame_is_no_event(plant: Plant, exposure: MakeExposure) -> None:
    plant.say(exposure(0))
    plant.publish.end_runs()
    assert plant.events == []


def test_a_defect_is_one_event_with_the_contracts_fields_in_millimetres(
    plant: Plant, exposure: MakeExposure
) -> None:
    shown = exposure(8812034, epoch=17, part=912345)
    plant.say(shown, Outcome.DEFECT, None, FOUND)
    (event,) = plant.events
    assert (event.id, event.type) == ("line/left/17/8812034", "clearline.defect.v1")
    assert (event.source, event.subject, event.key) == ("/site/line/left", "left", "line/left")
    assert event.wall_ns == shown.wall_ns
    data = dict(event.data)
    latency_ms = data.pop("latency_ms")
    assert 0 <= latency_ms < 10_000
    assert data == {
        "schema_version": 1, "event_id": "line/left/17/8812034",
        "event_time_ms": shown.wall_ns // 1_000_000, "line": "line", "camera": "left", "epoch": 17,
        "sequence": 8812034, "part_id": 912345, "verdict": "defect", "late": False, "score": 0.9,
        "threshold": 0.5, "score_ratio": 1.8, "region_count": 2,
        "max_region_area_mm2": 1.2, "max_region_area_px": 120,
        "max_region_x_mm": 1.8, "max_region_x_px": 18.0,
        "max_region_y_mm": 1.7, "max_region_y_px": 17.0,
        "model": "foil-a", "model_hash": "9f2c1e0b", "image_ref": "file:///a.png",
        "regions": [
            {"x_mm": 10.0, "y_mm": 4.0, "w_mm": 1.0, "h_mm": 0.6, "x_px": 100, "y_px": 40,
             "w_px": 10, "h_px": 6, "area_mm2": 0.3, "area_px": 30, "score": 0.9},
            {"x_mm": 0.8, "y_mm": 1.2, "w_mm": 2.0, "h_mm": 1.0, "x_px": 8, "y_px": 12,
             "w_px": 20, "h_px": 10, "area_mm2": 1.2, "area_px": 120, "score": 0.7},
        ],
    }  # fmt: skip
    assert list(event.data)[-1] == "regions"  # flat scalars first: sinks cannot key on headers


def test_without_a_scale_millimetres_are_null_and_pixels_carry_the_numbers(
    plant: Plant, exposure: MakeExposure
) -> None:
    plant.say(exposure(0, camera="right"), Outcome.DEFECT, None, FOUND)
    (event,) = plant.events
    values = {**event.data, **event.data["regions"][0]}
    in_mm = {name: value for name, value in values.items() if "_mm" in name}
    assert len(in_mm) == 8
    assert set(in_mm.values()) == {None}
    assert (values["max_region_area_px"], values["x_px"], values["area_px"]) == (120, 100, 30)


def test_a_late_defect_is_an_event_that_says_so_and_no_verdict(
    plant: Plant, exposure: MakeExposure
) -> None:
    plant.publish.late_defect(exposure(5), FOUND)
    (event,) = plant.events
    assert (event.data["late"], event.id) == (True, "line/left/1/5")
    assert plant.verdicts == []
    assert plant.accounts["left"].counts().defect == 0


def test_uninspected_frames_in_a_row_are_one_event(plant: Plant, exposure: MakeExposure) -> None:
    for k in range(5):
        plant.missed(exposure(k), Reason.LATE)
    assert plant.runs() == []
    plant.say(exposure(5))
    assert plant.runs() == [("left", "late", 1, 0, 4, 5)]
    plant.publish.end_runs()
    assert len(plant.events) == 1


def test_another_reason_epoch_or_camera_is_another_run(
    plant: Plant, exposure: MakeExposure
) -> None:
    plant.missed(exposure(0), Reason.LATE)
    plant.missed(exposure(1), Reason.OVERLOAD)
    plant.missed(exposure(0, camera="right"), Reason.OVERLOAD)
    plant.missed(exposure(2), Reason.OVERLOAD)
    plant.missed(exposure(0, epoch=2), Reason.OVERLOAD)
    plant.publish.end_runs()
    assert sorted(plant.runs()) == [
        ("left", "late", 1, 0, 0, 1),
        ("left", "overload", 1, 1, 2, 2),
        ("left", "overload", 2, 0, 0, 1),
        ("right", "overload", 1, 0, 0, 1),
    ]
    assert len({event.id for event in plant.events}) == 4


def test_a_run_that_lasts_is_told_piece_by_piece_and_nothing_twice(
    plant: Plant, exposure: MakeExposure
) -> None:
    for k in range(6):
        plant.missed(exposure(k), Reason.WORKER_RESTART)
        if k % 2:
            plant.publish.end_runs()
    plant.publish.end_runs()
    assert [run[3:] for run in plant.runs()] == [(0, 1, 2), (2, 3, 2), (4, 5, 2)]


def test_a_camera_that_comes_and_goes_is_told(plant: Plant) -> None:
    plant.publish.camera("left", 3, "up", None)
    plant.publish.camera("left", 3, "down", "no longer answers")
    up, down = plant.events
    assert {e.type for e in plant.events} == {"clearline.camera.v1"}
    assert (up.data["kind"], up.data["epoch"], up.data["camera"]) == ("up", 3, "left")
    assert (down.data["kind"], down.data["problem"]) == ("down", "no longer answers")


def test_the_largest_event_stays_under_the_brokers_limit(
    plant: Plant, exposure: MakeExposure
) -> None:
    region = Region(16383, 16383, 16384, 16384, 2**28, 1 / 3)
    found = Finding(
        Result(1 / 3, 1 / 7, Judgement.DEFECT, (region,) * 16), "file:///" + "x" * 4096, "default"
    )
    plant.say(exposure(2**53), Outcome.DEFECT, None, found)
    assert len(json.dumps(cloud_event(plant.events[0]))) < 64 * 1024


def test_line_events_carry_their_numbers() -> None:
    gap = Unrecorded("left", (3, 17), (4, 2), 5)
    event = events.of_line(Line("site", "line"), "unrecorded", 4, 10**18, events.unrecorded(gap))
    assert (event.type, event.key, event.source) == ("clearline.line.v1", "line", "/site/line")
    expected: dict[str, Any] = {
        "kind": "unrecorded", "run": 4, "camera": "left", "reason": "daemon_restart",
        "after_epoch": 3, "after_sequence": 17, "last_epoch": 4, "last_sequence": 2, "count": 5,
    }  # fmt: skip
    assert expected.items() <= dict(event.data).items()
    counts = {"left": Counts(10, 6, 1, {Reason.LATE: 2}, 1)}
    assert events.summary(counts) == {
        "cameras": {
            "left": {
                "received": 10,
                "ok": 6,
                "defect": 1,
                "uninspected": {"late": 2},
                "in_flight": 1,
            }
        }
    }
