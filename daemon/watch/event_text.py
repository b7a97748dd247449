"""An event in words, for people at a terminal: when, who, what, and what it comes to.

What is not known here, a kind or a field that a later version added, is printed as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Data = dict[str, Any]
"""An event's data, of which everything that was said is taken out."""

ALWAYS = ("schema_version", "event_id", "event_time_ms", "line", "camera", "kind", "epoch", "run")
"""Said elsewhere, or nothing to people."""
OF_A_DEFECT = (
    "verdict", "sequence", "first_sequence", "last_sequence", "score", "threshold", "latency_ms",
    "model", "model_hash", "calibration_hash", "configuration_hash", "frame_ref", "regions",
    "max_region_area_px", "max_region_x_px", "max_region_y_px", "web_position_px",
)  # fmt: skip
BAD = ("defect", "down", "alarm", "outbox_replaced")
DOUBTFUL = ("gap", "uninspected", "set_aside", "unrecorded", "unreported", "shed", "drift")
GOOD = ("up", "started")


@dataclass(frozen=True, slots=True)
class Told:
    when: str
    """Local time, to the millisecond; with the day where it is not today's."""
    who: str
    """The camera, or the line."""
    kind: str
    colour: str
    words: str


def text_of(event: Mapping[str, Any]) -> Told:
    """Of a CloudEvent in its JSON format, whatever is in it."""
    said = event.get("data")
    data = said if isinstance(said, dict) else {"data": said}
    kind = str(data.get("kind") or data.get("verdict") or event.get("type", "?"))
    about_line = str(event.get("type", "")).startswith("clearline.line.")
    who = data.get("line") if about_line else data.get("camera")
    words = _words(kind, data, about_line)
    return Told(
        _when(data.get("event_time_ms")),
        _plain(who or event.get("subject", "?")),
        _plain(kind),
        _colour(kind, data),
        _plain(words),
    )


def _words(kind: str, data: Mapping[str, Any], about_line: bool) -> str:
    rest = dict(data)
    try:
        said = _KINDS[kind](rest) if kind in _KINDS else ""
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):  # not as we know it
        rest, said = dict(data), ""
    for name in ALWAYS:
        # A camera stands in front, unless it is the line that speaks of it.
        if name != "camera" or not about_line or said:
            rest.pop(name, None)
    unknown = " ".join(f"{name}={_plain(value)}" for name, value in rest.items())
    return "  ".join(part for part in (said, unknown) if part)


def _defect(data: Data) -> str:
    ratio, score = data.pop("score_ratio"), data["score"]
    parts = [f"score {score:.4g}" if ratio is None else f"{ratio:.2f} x threshold"]
    count = data.pop("region_count")
    parts.append(f"{_many(count, 'region')}{_largest(data)}")
    strips, web_mm, web_px = (
        data.pop("strips"),
        data.pop("web_position_mm"),
        data["web_position_px"],
    )
    if strips > 1:
        parts.append(f"over {strips} strips")
    if web_px is not None:
        parts.append(f"web at {web_px} rows" if web_mm is None else f"web at {web_mm:.1f} mm")
    part = data.pop("part_id")
    if part:
        parts.append(f"part {part}")
    parts += [text for name, text in (("continues", "goes on"), ("late", "late")) if data.pop(name)]
    if data.pop("plc_sent") is False:
        parts.append("the PLC was not told")
    image = data.pop("image_ref")
    for name in OF_A_DEFECT:
        data.pop(name, None)
    return ", ".join(parts) + (f"  {image}" if image else "")


def _largest(data: Data) -> str:
    mm2, x, y = (data.pop(f"max_region_{what}") for what in ("area_mm2", "x_mm", "y_mm"))
    if mm2 is not None:
        return f", {mm2:.3g} mm2 at ({x:.1f}, {y:.1f}) mm"
    px = data["max_region_area_px"]
    if px is None:
        return ""
    return f", {px} px at ({data['max_region_x_px']:.0f}, {data['max_region_y_px']:.0f}) px"


def _problem(data: Data) -> str:
    return str(data.pop("problem", ""))


def _gap(data: Data) -> str:
    del data["reason"]
    return f"{_frames(data)} never came"


def _uninspected(data: Data) -> str:
    reason = data.pop("reason")
    return f"({reason}) {_frames(data)}"


def _frames(data: Data) -> str:
    first, last, count = (data.pop(n) for n in ("first_sequence", "last_sequence", "count"))
    return f"{_many(count, 'frame')} {_range(first, last)}"


def _set_aside(data: Data) -> str:
    image = data.pop("image_ref")
    return f"frame {data.pop('sequence')}" + (f"  {image}" if image else "")


def _started(data: Data) -> str:
    return f"cameras {', '.join(data.pop('cameras'))}"


def _counts(data: Data) -> str:
    cameras = data.pop("cameras")
    return "; ".join(f"{name}: {_account(dict(counts))}" for name, counts in cameras.items())


def _account(counts: Data) -> str:
    reasons = counts.pop("uninspected")
    why = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
    uninspected = f"{sum(reasons.values())} uninspected" + (f" ({why})" if why else "")
    told = [f"{counts.pop(name)} {name}" for name in ("received", "ok", "defect")]
    in_flight = f"{counts.pop('in_flight')} in flight"
    return ", ".join([*told, uninspected, in_flight, *(f"{n}={v}" for n, v in counts.items())])


def _model_changed(data: Data) -> str:
    before, after, took = (data.pop(n) for n in ("before", "after", "took_ms"))
    return f"{data.pop('camera')}: {before} to {after}, took {took:.0f} ms"


def _alarm(data: Data) -> str:
    alarm, parts = data.pop("alarm"), _many(data.pop("parts"), "part")
    return f"{alarm}: {parts}, {data.pop('in_all')} since the start"


def _unrecorded(data: Data) -> str:
    camera, reason = data.pop("camera"), data.pop("reason")
    return f"{camera}: {_many(data.pop('count'), 'frame')} {_after(data)} ({reason})"


def _unreported(data: Data) -> str:
    defects = _many(data.pop("defects"), "defect")
    others = _many(data.pop("uninspected"), "uninspected frame")
    return f"{data.pop('camera')}: {defects} and {others} without an event, {_after(data)}"


def _after(data: Data) -> str:
    after, last = (
        f"{data.pop(f'{w}_epoch')}/{data.pop(f'{w}_sequence')}" for w in ("after", "last")
    )
    return f"after {after} up to {last}"


def _drift(data: Data) -> str:
    state = {"drifting": "scores drift", "back": "scores are back"}[data.pop("state")]
    ks, images = data.pop("ks"), data.pop("images")
    median, calibrated = data.pop("median"), data.pop("calibrated_median")
    return (
        f"{data.pop('camera')}, recipe {data.pop('recipe')}: {state}, KS distance {ks:.2f} over "
        f"{images} images, median {median:.3g} (calibrated {calibrated:.3g})"
    )


def _shed(data: Data) -> str:
    given_up = [f"{n} {kind}" for kind, n in data.pop("events").items() if n]
    if pictures := data.pop("pictures"):
        given_up.append(_many(pictures, "picture"))
    since = _when(data.pop("since_ms"))
    return f"given up: {', '.join(given_up) or 'nothing'}, since {since}: {data.pop('reason')}"


def _outbox_replaced(data: Data) -> str:
    saved, lost, file = data.pop("saved"), data.pop("lost"), data.pop("file")
    how_many = "nobody knows how many" if lost is None else lost
    words = f"{data.pop('problem')}; {saved} saved, {how_many} lost"
    return f"{words}; set aside as {file}" if file else words


_KINDS: Mapping[str, Callable[[Data], str]] = {
    "defect": _defect,
    "up": _problem,
    "down": _problem,
    "gap": _gap,
    "uninspected": _uninspected,
    "set_aside": _set_aside,
    "started": _started,
    "stopped": _counts,
    "summary": _counts,
    "model_changed": _model_changed,
    "alarm": _alarm,
    "unrecorded": _unrecorded,
    "unreported": _unreported,
    "drift": _drift,
    "shed": _shed,
    "outbox_replaced": _outbox_replaced,
}


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}..{last}"


def _colour(kind: str, data: Mapping[str, Any]) -> str:
    if kind in BAD:
        return "red"
    if kind in GOOD or data.get("state") == "back":
        return "yellow" if "problem" in data else "green"
    return "yellow" if kind in DOUBTFUL else "dim"


def _when(unix_ms: Any) -> str:
    try:
        moment = datetime.fromtimestamp(unix_ms / 1000).astimezone()
        ms = int(unix_ms) % 1000
    except (TypeError, ValueError, OverflowError, OSError):
        return "--:--:--.---"
    day = "" if moment.date() == datetime.now().astimezone().date() else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M:%S}.{ms:03d}"


def _plain(text: Any) -> str:
    """On one line, and nothing that a terminal would obey."""
    try:
        said = str(text)
    except RecursionError:  # read, but too deep to be said
        said = "…"
    return "".join(sign if sign.isprintable() else " " for sign in said)
