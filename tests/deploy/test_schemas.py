"""The schemas of events: they take what daemon.events makes, and nothing beside it."""

import math
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, ValidationError
from plant import schemas

from adapters.ports import Event, Exposure, FrameId, Reason
from adapters.sinks import cloud_event
from daemon import events
from daemon.drift import Drift
from daemon.events import Line, Model, Moment
from daemon.recipes import Switched
from daemon.records.ledger import Counts, Unrecorded
from daemon.records.outbox_file import Damage, Shed
from daemon.records.reconcile import Disagreement
from daemon.records.reported import Reported
from daemon.stations.chains import Chain
from daemon.stations.judge import Finding
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region

LINE = Line("plant-1", "line3", "0123abcd")
MODEL = Model("foil-a@2026-07-14", "9f2c1e0b", "77aa0011")
MOMENT = Moment(1_785_312_000_123_456_789, 1_785_312_000_123_456_790)
REGIONS = tuple(Region(10 * k, 7, 28, 22, 342 + k, 0.9 - k / 100) for k in range(20))
Path = tuple[str | int, ...]
"""Where in an event's data."""


def defect(
    *regions: Region, threshold: float = 0.6045, picture: str | None = "file:///clearline/17-5.png",
    scale: float | None = 0.1, web: bool = True, **chain: Any,
) -> Event:  # fmt: skip
    exposure = Exposure(FrameId("line3", "cam2", 17, 8812034), 10**9, MOMENT.wall_ns, 2 * 10**9, 5)
    result = Result(0.9, threshold, Judgement.DEFECT, regions)
    finding = Finding(result, picture, "foil-a", 1024, picture)
    one = Chain.of(exposure, 1_038_200_000, finding, plc_sent=True)
    return events.defect(
        LINE, replace(one, **chain), model=MODEL, late=False, mm_per_px=scale, line_scan=web
    )


def of_camera(kind: str, data: dict[str, Any]) -> Event:
    return events.camera(LINE, "cam2", 17, kind, MOMENT, data)


def uninspected(reason: Reason) -> Event:
    first, last = (FrameId("line3", "cam2", 17, number) for number in (5, 9))
    return events.uninspected(LINE, first, last, reason, 5, MOMENT)


def of_line(kind: str, data: dict[str, Any]) -> Event:
    return events.of_line(LINE, kind, 4, MOMENT, data)


COUNTS = events.summary({
    "cam1": Counts(24, 10, 1, dict.fromkeys(Reason, 1), 1), "cam2": Counts(0, 0, 0, {}, 0),
})  # fmt: skip
DRIFT = asdict(Drift("cam2", "foil-a", 0.31, 1000, 0.2, 0.15, "drifting"))
UNREPORTED = events.unreported(Reported("cam2", 3, 9, 17, 4), 5, 9, (17, 9))
SHED = events.shed(Shed(MOMENT.wall_ns, Counter({"camera": 2, "summary": 7}), "no room"))
REPLACED = events.outbox_replaced(Damage("malformed", "outbox.sqlite.damaged-1", 3, 1))
WHOLE = events.outbox_replaced(Damage("its last commits are missing", None, 3, None))
GAP = Unrecorded("cam2", (0, 0), (17, 4), 5)

# Every kind, and every null that a kind may have.
SAMPLES: dict[str, Event] = {
    "defect": defect(*REGIONS[:2]),
    "defect over strips": defect(REGIONS[0], strips=32, continues=True),
    "defect of an area camera without a scale": defect(REGIONS[0], scale=None, web=False),
    "defect of a bare line": defect(threshold=0.0, plc_sent=None, picture=None),
    "up": of_camera("up", {"problem": "its clock is not ptp"}),
    "up without a problem": of_camera("up", {}),
    "down": of_camera("down", {"problem": "no answer"}),
    "set_aside": of_camera("set_aside", {"sequence": 7, "image_ref": "file:///aside/7.npy"}),
    "set_aside without a picture": of_camera("set_aside", {"sequence": 7, "image_ref": None}),
    **{f"uninspected {reason}": uninspected(reason) for reason in Reason},
    "started": of_line("started", {"cameras": ["cam1", "cam2"]}),
    "stopped": of_line("stopped", COUNTS),
    "summary": of_line("summary", COUNTS),
    "model_changed": of_line("model_changed", asdict(Switched("cam2", "foil-a", "foil-b", 38.25))),
    "alarm": of_line("alarm", asdict(Disagreement("ok_not_passed", 1, 3))),
    "unrecorded": of_line("unrecorded", events.unrecorded(GAP)),
    "unreported": of_line(
        "unreported", events.unreported(Reported("cam2", 3, 9, 17, 4), 5, 9, (17, 9))
    ),
    "drift": of_line("drift", DRIFT),
    "shed": of_line("shed", SHED),
    "shed pictures": of_line("shed", events.shed_pictures(MOMENT.wall_ns, 3)),
    "outbox_replaced": of_line("outbox_replaced", REPLACED),
    "outbox_replaced, loss unknown": of_line("outbox_replaced", WHOLE),
}
each_sample = pytest.mark.parametrize("event", SAMPLES.values(), ids=SAMPLES)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field and list entry, the objects and lists among them as well."""
    if path:
        yield path, value
    inner: Any = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else inner:
        yield from leaves(below, (*path, key))


def at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def changed(event: Event, path: Path, value: Any) -> Event:
    data = deepcopy(dict(event.data))
    at(data, path[:-1])[path[-1]] = value
    return replace(event, data=data)


def named(path: Path) -> Path:
    """Without the places in lists."""
    return tuple(key for key in path if not isinstance(key, int))


def kind(event: Event) -> tuple[str, str]:
    return event.type, event.data.get("kind", "")


NULLS = {
    (kind(event), named(path))
    for event in SAMPLES.values() for path, value in leaves(dict(event.data)) if value is None
}  # fmt: skip


def may_be_absent(path: Path) -> bool:
    """The names of a map are no fields: a camera in the counts, a reason among the uninspected."""
    if isinstance(path[-1], int) or path == ("problem",):
        return True
    return path[:-1] == ("cameras",) or path[-2:-1] == ("uninspected",)


def refused(event: Event) -> bool:
    try:
        schemas.check(event)
    except (ValidationError, AssertionError):
        return True
    return False


@each_sample
def test_every_kind_of_event_is_as_described(event: Event) -> None:
    schemas.check(event)


@each_sample
def test_a_missing_field_is_refused(event: Event) -> None:
    for path, _ in leaves(dict(event.data)):
        if not may_be_absent(path):
            data = deepcopy(dict(event.data))
            del at(data, path[:-1])[path[-1]]
            assert refused(replace(event, data=data)), path


@each_sample
def test_a_value_of_another_type_is_refused(event: Event) -> None:
    for path, value in leaves(dict(event.data)):
        if value is None:
            continue
        others: list[Any] = [0.5, "", True, [None], {"a": None}, math.nan, -1]
        if isinstance(value, bool | float):
            others.remove(True if isinstance(value, bool) else 0.5)
        if (kind(event), named(path)) not in NULLS:
            others.append(None)
        for other in others:
            assert refused(changed(event, path, other)), (path, other)


@each_sample
def test_an_undescribed_field_is_refused_here_and_taken_by_the_plant(event: Event) -> None:
    shipped = Draft202012Validator(schemas.schema(event.type))
    objects = [(), *(path for path, value in leaves(dict(event.data)) if isinstance(value, dict))]
    for path in objects:
        more = changed(event, (*path, "undescribed"), 1)
        assert refused(more), path
        if path == () or not may_be_absent((*path, "undescribed")):
            assert shipped.is_valid(more.data), path


@each_sample
@pytest.mark.parametrize(
    "change",
    [{"id": "line3/cam2/17/1"}, {"source": "/plant-1/line4/cam2"}, {"subject": "cam3"},
     {"key": "line3/cam3"}, {"wall_ns": MOMENT.wall_ns + 1_000_000}, {"sequence": None},
     {"sequence": "17-5"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_attribute_that_contradicts_the_data_is_refused(
    event: Event, change: dict[str, Any]
) -> None:
    assert refused(replace(event, **change))


def test_a_camera_may_be_named_as_its_line_is() -> None:
    schemas.check(events.camera(Line("plant-1", "cam2", "0123abcd"), "cam2", 17, "up", MOMENT, {}))


def test_more_than_16_regions_are_refused() -> None:
    event = defect(*REGIONS)
    schemas.check(event)
    assert len(event.data["regions"]) == 16
    assert refused(changed(event, ("regions",), [*event.data["regions"], event.data["regions"][0]]))


def test_a_field_of_another_kind_is_refused_and_named() -> None:
    with pytest.raises(ValidationError, match="'first_sequence' was unexpected"):
        schemas.check(changed(SAMPLES["down"], ("first_sequence",), 1))


def test_an_unknown_kind_or_reason_is_refused() -> None:
    assert refused(of_camera("another", {}))
    assert refused(of_line("another", {}))
    assert refused(changed(SAMPLES["uninspected late"], ("reason",), "another"))


@pytest.mark.parametrize(
    ("sample", "field", "value"),
    [("defect", "event_id", "line3/cam2/17"), ("up", "event_id", "line3/cam2/17/8812034"),
     ("started", "event_id", "line3/cam2/17/up/1"), ("defect", "event_time_ms", -1),
     ("defect", "line", "line/3"), ("up", "camera", "cam 2"), ("started", "line", ""),
     ("started", "cameras", []), ("started", "cameras", ["cam1", "cam1"]),
     ("summary", "cameras", {"cam 2": COUNTS["cameras"]["cam2"]}), ("drift", "ks", 1.01),
     ("defect", "model_hash", "9F2C1E0B"), ("defect", "image_ref", "/clearline/17-5.png"),
     ("defect", "score_ratio", 0.999)],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_the_schema_alone(
    sample: str, field: str, value: Any
) -> None:
    event = SAMPLES[sample]
    schema = schemas.closed_schema(event.type)
    assert schema.is_valid(event.data)
    assert not schema.is_valid({**event.data, field: value})


@pytest.mark.parametrize("type_", schemas.TYPES)
def test_a_schema_is_valid_and_bears_the_name_that_events_give(type_: str) -> None:
    schema = schemas.schema(type_)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == cloud_event.schema(type_)


@pytest.mark.parametrize("type_", schemas.TYPES)
def test_every_field_is_explained(type_: str) -> None:
    def fields(schema: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(schema, dict):
            if "if" in schema:
                schema = {key: value for key, value in schema.items() if key != "if"}
            yield from schema.get("properties", {}).items()
            schema = schema.values()
        for inner in schema if not isinstance(schema, str | int | float | None) else ():
            yield from fields(inner)

    described = list(fields(schemas.schema(type_)))
    assert described
    for name, field in described:
        assert field["description"].endswith("."), name
        assert field["type"], name


@each_sample
def test_readers_of_draft_7_such_as_asyncapi_tools_read_the_same(event: Event) -> None:
    reader = Draft7Validator(schemas.schema(event.type))
    reader.validate(event.data)
    for field in schemas.schema(event.type)["required"]:
        assert not reader.is_valid({k: v for k, v in event.data.items() if k != field}), field
