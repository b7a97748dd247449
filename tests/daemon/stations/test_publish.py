"""PUBLISH: each verdict at once, each defect as one event, uninspected frames in runs."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.ports import Event, Exposure, Outcome, Reason, Verdict
from daemon.events import Line, Model
from daemon.records.ledger import Ledger
from daemon.stations.chains import MOST_NS
from daemon.stations.judge import Finding
from daemon.stations.publish import MOST_PROBLEM, Place, Publish
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

MakeExposure = Callable[..., Exposure]
SMALL, LARGE = Region(100, 40, 10, 6, 30, 0.9), Region(8, 12, 20, 10, 120, 0.7)
DOWN, IN = Region(8, 40, 20, 24, 120, 0.7), Region(10, 0, 20, 10, 80, 0.9)
"""A defect over two strips, of 64 rows."""


def found(*regions: Region, recipe: str = "default") -> Finding:
    score = max(region.score for region in regions)
    result = Result(score, 0.5, Judgement.DEFECT, regions)
    return Finding(result, "file:///a.png", recipe, 64, "file:///a.raw.png")


FOUND = found(SMALL, LARGE)


class Plant:
    """Everyone who is told, the PLC among them."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.verdicts: list[Verdict] = []
        self.order: list[str] = []
        self.plc_is_there = True
        self.ledger = Ledger(folder / "ledger")
        self.accounts = {name: self.ledger.account(name) for name in ("left", "right", "web")}
        self.publish = self.make(lambda: self.plc_is_there)

    def make(self, plc_connected: Callable[[], bool] | None) -> Publish:
        models = {
            "default": Model("foil-a", "9f2c1e0b", "11aa22bb"),
            "other": Model("foil-b", "00112233", "44556677"),
        }
        left, right, web = self.accounts.values()
        places = {
            "left": Place(left, models, 0.1, line_scan=False),
            "right": Place(right, models, None, line_scan=False),
            "web": Place(web, models, 0.1, line_scan=True),
        }
        line = Line("site", "line", "c0ffee00")
        return Publish(line, 7, places, (self,), self, plc_connected)  # type: ignore[arg-type]

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

    def defects(self) -> list[tuple[int, int, int]]:
        """Epoch, first and last sequence."""
        told = [event.data for event in self.events if event.type == "clearline.defect.v1"]
        return [(d["epoch"], d["sequence"], d["last_sequence"]) for d in told]

    def missed(self, exposure: Exposure, reason: Reason) -> None:
        self.say(exposure, Outcome.UNINSPECTED, reason)

    def runs(self) -> list[tuple[object, ...]]:
        told = [event.data for event in self.events if event.data.get("kind") == "uninspected"]
        names = ("camera", "reason", "epoch", "first_sequence", "last_sequence", "count")
        return [tuple(data[name] for name in names) for data in told]


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
    assert event.sequence == "0000000017-00000000000008812034"
    data = dict(event.data)
    latency_ms = data.pop("latency_ms")
    assert 0 <= latency_ms < 10_000
    assert data == {
        "schema_version": 1, "event_id": "line/left/17/8812034",
        "event_time_ms": shown.wall_ns // 1_000_000, "line": "line", "camera": "left", "epoch": 17,
        "sequence": 8812034, "part_id": 912345, "verdict": "defect", "late": False, "score": 0.9,
        "threshold": 0.5, "score_ratio": 1.8, "plc_sent": True, "strips": 1,
        "first_sequence": 8812034, "last_sequence": 8812034, "continues": False, "region_count": 2,
        "max_region_area_mm2": 1.2, "max_region_area_px": 120,
        "max_region_x_mm": 1.8, "max_region_x_px": 18.0,
        "max_region_y_mm": 1.7, "max_region_y_px": 17.0,
        "web_position_mm": None, "web_position_px": None, "model": "foil-a",
        "model_hash": "9f2c1e0b", "calibration_hash": "11aa22bb",
        "configuration_hash": "c0ffee00", "image_ref": "file:///a.png",
        "frame_ref": "file:///a.raw.png",
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
    assert len(in_mm) == 9
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


@pytest.mark.parametrize("there", [True, False, None])
def test_an_event_says_whether_the_plc_was_there_to_be_told_or_null_without_one(
    plant: Plant, exposure: MakeExposure, there: bool | None
) -> None:
    plant.publish = plant.make(None if there is None else lambda: there)
    plant.say(exposure(0), Outcome.DEFECT, None, FOUND)
    plant.publish.late_defect(exposure(1), FOUND)  # the PLC was told that it is uninspected
    sent = [event.data["plc_sent"] for event in plant.events]
    assert sent == [there, None if there is None else False]


def test_a_defect_over_two_strips_is_two_verdicts_at_once_and_one_event_with_its_place_on_the_web(
    plant: Plant, exposure: MakeExposure
) -> None:
    first = exposure(5, camera="web", part=31)
    plant.say(first, Outcome.DEFECT, None, found(DOWN))
    assert (len(plant.verdicts), plant.events) == (1, [])
    plant.plc_is_there = False
    stronger = exposure(6, camera="web", part=32)
    plant.say(stronger, Outcome.DEFECT, None, found(IN))
    (event,) = plant.events
    assert (event.id, event.wall_ns) == ("line/web/1/6", stronger.wall_ns), "its picture is there"
    expected = {
        "sequence": 6, "first_sequence": 5, "last_sequence": 6, "strips": 2, "part_id": 32,
        "continues": False,
        "score": 0.9, "plc_sent": False, "web_position_px": 360, "web_position_mm": 36.0,
        "region_count": 1, "max_region_area_px": 200,
    }  # fmt: skip
    assert expected.items() <= dict(event.data).items()
    (region,) = event.data["regions"]
    assert (region["x_px"], region["y_px"], region["w_px"], region["h_px"]) == (8, 40, 22, 34)
    plant.publish.finish()
    assert len(plant.events) == 1


def test_a_camera_that_is_no_line_scan_tells_every_frame_at_once(
    plant: Plant, exposure: MakeExposure
) -> None:
    for k, region in enumerate((DOWN, IN)):
        plant.say(exposure(k), Outcome.DEFECT, None, found(region))
    assert plant.defects() == [(1, 0, 0), (1, 1, 1)]


BREAKS: dict[str, Callable[[Plant, MakeExposure], object]] = {
    "a sound strip": lambda plant, web: plant.say(web(1)),
    "an uninspected strip": lambda plant, web: plant.missed(web(1), Reason.LATE),
    "missed strips": lambda plant, web: plant.publish.missed(
        web(1).id, web(70).id, Reason.CAMERA_GAP
    ),
    "the end of the line": lambda plant, _: plant.publish.finish(),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_chain_is_told_when_it_breaks_before_what_broke_it(
    plant: Plant, exposure: MakeExposure, name: str
) -> None:
    plant.say(exposure(0, camera="web"), Outcome.DEFECT, None, found(DOWN))
    BREAKS[name](plant, lambda sequence: exposure(sequence, camera="web"))
    plant.publish.end_runs()
    assert plant.defects() == [(1, 0, 0)]
    assert plant.events[0].data["continues"] is False
    plant.say(exposure(71, camera="web"), Outcome.DEFECT, None, found(IN))
    assert plant.defects() == [(1, 0, 0), (1, 71, 71)]


@pytest.mark.parametrize(("epoch", "recipe"), [(2, "default"), (1, "other")])
def test_another_epoch_or_recipe_is_another_defect_of_its_own_model(
    plant: Plant, exposure: MakeExposure, epoch: int, recipe: str
) -> None:
    plant.say(exposure(0, camera="web"), Outcome.DEFECT, None, found(DOWN))
    following = exposure(1, camera="web", epoch=epoch)
    plant.say(following, Outcome.DEFECT, None, found(IN, recipe=recipe))
    assert plant.defects() == [(1, 0, 0), (epoch, 1, 1)]
    models = ["foil-a", "foil-a" if recipe == "default" else "foil-b"]
    assert [event.data["model"] for event in plant.events] == models


def test_a_late_defect_goes_out_alone_and_with_its_place_on_the_web(
    plant: Plant, exposure: MakeExposure
) -> None:
    strips = [exposure(k, camera="web") for k in range(3)]
    plant.say(strips[0], Outcome.DEFECT, None, found(DOWN))
    plant.missed(strips[1], Reason.LATE)
    plant.publish.late_defect(strips[1], found(IN))
    plant.say(strips[2], Outcome.DEFECT, None, found(IN))
    assert plant.defects() == [(1, 0, 0), (1, 1, 1), (1, 2, 2)]
    late = next(e.data for e in plant.events if e.id == "line/web/1/1")
    assert (late["late"], late["web_position_px"]) == (True, 64)


def test_a_chain_that_stays_open_is_told_by_the_clock(
    plant: Plant, exposure: MakeExposure, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.say(exposure(0, camera="web"), Outcome.DEFECT, None, found(DOWN))
    plant.publish.end_runs()
    assert plant.events == []
    later_ns = time.monotonic_ns() + MOST_NS
    monkeypatch.setattr("daemon.stations.publish.time.monotonic_ns", lambda: later_ns)
    plant.publish.end_runs()
    assert [event.data["continues"] for event in plant.events] == [True]


def test_at_the_end_of_the_line_uninspected_frames_are_told_as_well(
    plant: Plant, exposure: MakeExposure
) -> None:
    plant.missed(exposure(0), Reason.SHUTDOWN)
    plant.publish.finish()
    assert plant.runs() == [("left", "shutdown", 1, 0, 0, 1)]


def test_no_two_events_share_an_id_where_the_clock_stands_still_or_is_set_back(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_ns = [10**18, 10**18, 10**18 - 10**12, 10**18, 10**18 + 1]
    monkeypatch.setattr("daemon.stations.publish.time.time_ns", lambda: times_ns[0])
    for _ in range(len(times_ns)):
        plant.publish.of_line("drift", {})
        plant.publish.camera("left", 1, "up", None)
        times_ns.append(times_ns.pop(0))
    assert len({event.id for event in plant.events}) == 10
    lines = plant.events[::2]
    assert [event.wall_ns for event in lines] == times_ns  # what the clock said
    order = [event.sequence for event in lines]
    assert order == sorted(set(order))


def test_a_camera_that_comes_and_goes_is_told(plant: Plant) -> None:
    plant.publish.camera("left", 3, "up", None)
    plant.publish.camera("left", 3, "down", "no longer answers" + "!" * 10**6)
    up, down = plant.events
    assert (up.data["kind"], up.data["epoch"], up.data["camera"]) == ("up", 3, "left")
    assert (down.data["kind"], len(down.data["problem"])) == ("down", MOST_PROBLEM)


def test_a_picture_that_was_set_aside_is_told_with_its_frame(
    plant: Plant, exposure: MakeExposure
) -> None:
    plant.publish.set_aside(exposure(9).id, None)
    (event,) = plant.events
    said = {"kind": "set_aside", "epoch": 1, "sequence": 9, "image_ref": None}
    assert said.items() <= dict(event.data).items()
    assert event.sequence == "0000000001-00000000000000000009"
