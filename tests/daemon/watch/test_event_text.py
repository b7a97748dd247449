"""An event in words: what a person wants to know of it, on one line, whatever is in it."""

import time
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plant.events import IMAGE, defect, of_camera, of_line, summary, uninspected

from adapters.ports import Event, Reason
from adapters.sinks.cloud_event import structured
from daemon.watch.event_text import Told, text_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
DRIFT: dict[str, Any] = {
    "camera": "left", "recipe": "foil-a", "ks": 0.312, "images": 1000, "median": 0.2,
    "calibrated_median": 0.15,
}  # fmt: skip
GIVEN_UP = {"defect": 0, "camera": 2, "line": 0, "summary": 7}
SAMPLES: dict[str, tuple[Event, str]] = {
    "defect": (
        defect(5),
        "1.38 x threshold, 2 regions, 4.1 mm2 at (412.6, 18.1) mm, part 912345"
        f"  {IMAGE}",
    ),
    "defect over strips": (
        defect(5, strips=3, continues=True, plc_sent=False),
        "1.38 x threshold, 2 regions, 4.1 mm2 at (412.6, 18.1) mm, over 3 strips, part 912345, "
        "goes on, the PLC was not told"
        f"  {IMAGE}",
    ),
    "up": (of_camera("up"), ""),
    "down": (of_camera("down", problem="no answer\nfor 5 s"), "no answer for 5 s"),
    "gap": (uninspected(12, reason=Reason.CAMERA_GAP), "3 frames 12..14 never came"),
    "uninspected": (uninspected(12), "(late) 3 frames 12..14"),
    "set_aside": (of_camera("set_aside", sequence=7, image_ref=IMAGE), f"frame 7  {IMAGE}"),
    "started": (of_line("started", cameras=["left", "right"]), "cameras left, right"),
    "summary": (
        summary(),
        "left: 12 received, 10 ok, 0 defect, 2 uninspected (late 2), 0 in flight; "
        "right: 12 received, 12 ok, 0 defect, 0 uninspected, 0 in flight",
    ),
    "model_changed": (
        of_line("model_changed", camera="left", before="a", after="b", took_ms=38.2),
        "left: a to b, took 38 ms",
    ),
    "alarm": (
        of_line("alarm", alarm="ok_not_passed", parts=1, in_all=3),
        "ok_not_passed: 1 part, 3 since the start",
    ),
    "unrecorded": (
        of_line(
            "unrecorded", camera="left", reason="daemon_restart", after_epoch=3,
            after_sequence=120, last_epoch=4, last_sequence=2, count=12,
        ),
        "left: 12 frames after 3/120 up to 4/2 (daemon_restart)",
    ),
    "unreported": (
        of_line(
            "unreported", camera="left", after_epoch=17, after_sequence=4, last_epoch=17,
            last_sequence=9, defects=3, uninspected=1,
        ),
        "left: 3 defects and 1 uninspected frame without an event, after 17/4 up to 17/9",
    ),
    "drift": (
        of_line("drift", **DRIFT, state="drifting"),
        "left, recipe foil-a: scores drift, KS distance 0.31 over 1000 images, median 0.2 "
        "(calibrated 0.15)",
    ),
    "outbox_replaced": (
        of_line("outbox_replaced", problem="malformed", saved=3, lost=None, file="outbox.bad"),
        "malformed; 3 saved, nobody knows how many lost; set aside as outbox.bad",
    ),
}  # fmt: skip


def told(event: Event) -> Told:
    return text_of(structured(event))


@pytest.mark.parametrize(("event", "words"), SAMPLES.values(), ids=SAMPLES)
def test_every_kind_is_said_in_words(event: Event, words: str) -> None:
    assert told(event).words == words


def test_what_was_given_up_is_said_with_its_time() -> None:
    since_ms = int(time.time() * 1000)
    event = of_line("shed", since_ms=since_ms, events=GIVEN_UP, pictures=1, reason="no room")
    clock = datetime.fromtimestamp(since_ms / 1000)
    since = f"{clock:%H:%M:%S}.{since_ms % 1000:03d}"
    words = f"given up: 2 camera, 7 summary, 1 picture, since {since}: no room"
    assert told(event).words == words


def test_without_a_scale_it_is_pixels() -> None:
    event = defect(5)
    bare = {name: None if name.endswith("_mm") else value for name, value in event.data.items()}
    bare |= {"max_region_area_mm2": None, "score_ratio": None, "image_ref": None, "part_id": 0}
    found = text_of(structured(event) | {"data": bare})
    assert found.words == "score 0.8312, 2 regions, 410 px at (4126, 181) px"


def test_the_time_is_local_and_names_the_day_where_it_is_not_today(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        event = structured(of_camera("up"))
        today = datetime.fromtimestamp(event["data"]["event_time_ms"] / 1000)
        assert text_of(event).when.startswith(f"{today:%H:%M:%S}.")
        old = event | {"data": event["data"] | {"event_time_ms": 1_785_312_000_123}}
        assert text_of(old).when == "2026-07-29 13:30:00.123"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_who_it_is_about_is_the_camera_or_the_line() -> None:
    assert told(defect(1, camera="right")).who == "right"
    assert told(of_line("drift", **DRIFT, state="back")).who == "line3"


def test_bad_news_are_red_and_good_ones_green() -> None:
    assert told(defect(1)).colour == told(of_camera("down")).colour == "red"
    assert told(uninspected(1)).colour == told(of_camera("up", problem="x")).colour == "yellow"
    lost = {kind: SAMPLES[kind][0] for kind in ("unrecorded", "unreported")}
    assert {told(event).colour for event in lost.values()} == {"yellow"}
    assert told(of_camera("up")).colour == "green"
    assert told(of_line("drift", **DRIFT, state="back")).colour == "green"
    assert told(summary()).colour == "dim"


def test_an_unknown_kind_and_an_unknown_field_are_printed_as_they_are() -> None:
    assert told(of_camera("dreams", of="sheep", count=3)).words == "of=sheep count=3"
    assert told(of_line("late_shift", camera="left")).words == "camera=left"
    assert told(of_camera("down", problem="dark", lux=3)).words == "dark  lux=3"


def test_a_known_kind_that_lacks_a_field_is_printed_as_it_is() -> None:
    assert told(of_camera("gap", first_sequence=3, count=1)).words == "first_sequence=3 count=1"


def test_a_number_too_large_to_be_written_so_is_printed_as_it_is() -> None:
    event = defect(5)
    found = text_of(structured(event) | {"data": {**event.data, "score_ratio": 10**400}})
    assert f"score_ratio={10**400}" in found.words


def test_what_is_too_deep_to_be_said_is_a_dot_and_the_rest_is_said() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert text_of(structured(of_camera("dreams", of=deep, count=3))).words == "of=… count=3"


@given(st.dictionaries(st.sampled_from(["type", "subject", "data", "time"]), JSON))
def test_whatever_is_in_an_event_it_is_one_line(event: dict[str, Any]) -> None:
    found = text_of(event)
    assert "".join([found.when, found.who, found.kind, found.words]).isprintable()


@given(st.sampled_from([event for event, _ in SAMPLES.values()]), st.data())
def test_a_field_of_another_type_breaks_nothing(event: Event, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(event.data)))
    found = text_of(structured(event) | {"data": {**event.data, name: data.draw(JSON)}})
    assert found.words.isprintable()
