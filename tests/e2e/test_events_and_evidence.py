"""From a camera to what the plant has in hand: events by their schemas, pictures that are scored
again, an outbox that can be looked into. With a real worker and strips of a web."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from plant.schemas import check

from adapters.evidence_files import read_record
from adapters.image_files import read_image, write_image
from adapters.ports import Event, Refusal
from daemon.cli import main
from daemon.records.outbox import Outbox
from model.bundle import Bundle
from model.calibration import Calibration, beside

pytestmark = pytest.mark.slow

CONFIG = """
line = "line3"
state_dir = "state"
[cameras.left]
url = "simulated:woven?width=64&height=64&fps=20&frames=40&defect_rate=0.4&strips=true"
deadline_ms = 5000
mm_per_px = 0.5
line_scan = true
[cameras.right]
url = "simulated:grain?width=80&height=96&fps=10&frames=20"
deadline_ms = 5000
[recipes.default]
bundle = "tiny.safetensors"
[worker]
device = "cpu"
[evidence]
folder = "pictures"
[log]
level = "error"
"""


@pytest.fixture
def ran(tmp_path: Path, tiny_bundle: Bundle, calibration_for: Callable[..., Calibration]) -> Path:
    """A line's configuration, whose cameras showed all that they had; every frame a defect."""
    tiny_bundle.save(tmp_path / "tiny.safetensors")
    calibration_for(tiny_bundle, threshold=1e-6).save(beside(tmp_path / "tiny.safetensors"))
    (tmp_path / "line.toml").write_text(CONFIG)
    assert called("run", tmp_path / "line.toml") == 0
    return tmp_path / "line.toml"


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def told(config: Path) -> list[dict[str, Any]]:
    text = (config.parent / "state/events.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def as_event(said: dict[str, Any]) -> Event:
    wall_ns = said["data"]["event_time_ms"] * 1_000_000
    return Event(
        said["id"], said["type"], said["source"], said["subject"], said["partitionkey"], wall_ns,
        said["data"], said["sequence"],
    )  # fmt: skip


def picture(ref: str) -> Path:
    return Path(unquote(urlsplit(ref).path))


def test_events_keep_their_schemas_and_pictures_can_be_scored_again(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = told(ran)
    for said in events:
        check(as_event(said))
    kinds = {said["data"].get("kind", "defect") for said in events}
    assert {"started", "stopped", "up", "defect"} <= kinds
    defects = [said["data"] for said in events if said["type"] == "clearline.defect.v1"]

    web = [d for d in defects if d["camera"] == "left"]
    assert sum(d["strips"] for d in web) == 40, "each defective strip is in exactly one event"
    assert len(web) < 40, "a defect over several strips is one"
    assert all(d["web_position_mm"] == 0.5 * d["web_position_px"] for d in web)
    plain = [d for d in defects if d["camera"] == "right"]
    assert len(plain) == 20
    assert all(d["web_position_px"] is None and d["max_region_x_mm"] is None for d in plain)

    frame = picture(plain[0]["frame_ref"])
    assert read_image(frame).shape == (96, 80, 1)
    for ref in (plain[0]["image_ref"], plain[0]["frame_ref"]):
        said_by = read_record(picture(ref)).provenance
        assert said_by.bundle.startswith(plain[0]["model_hash"])
        assert said_by.calibration.startswith(plain[0]["calibration_hash"])
        assert said_by.configuration.startswith(plain[0]["configuration_hash"])

    capsys.readouterr()
    assert called("reproduce", plain[0]["event_id"], ran, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["same"] is True
    assert again["stored_score"] == pytest.approx(plain[0]["score"], abs=1e-6)

    changed = read_image(frame)
    changed[0, 0, 0] ^= 1
    record = read_record(frame)
    write_image(frame, changed)
    assert called("reproduce", plain[0]["event_id"], ran) == 2, "it says nothing of itself"
    from adapters.image_files import write_described

    write_described(frame, changed, record.text())
    assert called("reproduce", plain[0]["event_id"], ran, "--json") == 1
    assert called("reproduce", "line3/right/99/1", ran) == 2
    assert "has no stored frame" in capsys.readouterr().err


def test_the_outbox_is_looked_into_and_dead_letters_are_put_back(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ran.parent / "state"
    capsys.readouterr()
    assert called("outbox", state, "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert before["waiting"] == 0
    assert before["waiting_by_sink"] == {"jsonl": 0}
    stored = [as_event(said) for said in told(ran)[:3]]
    outbox = Outbox(state / "outbox.sqlite", 1 << 30, 24.0, ["jsonl"])
    for one in stored:
        outbox.put(one)
    last = outbox.after("jsonl", None, 10).result(10)[-1].seq
    refused = [Refusal(one, "is too large") for one in stored[:2]]
    outbox.acknowledge("jsonl", last, refused).result(10)
    assert called("outbox", state, "--json") == 0
    letters = json.loads(capsys.readouterr().out)["dead_letters"]
    assert [(one["event"], one["reason"]) for one in letters] == [
        (one.id, "is too large") for one in stored[:2]
    ]
    assert called("outbox", state, "--requeue", letters[0]["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 1, "while the line has it open"
    (again,) = outbox.after("jsonl", None, 10).result(10)
    assert again.event == stored[0]
    assert called("outbox", state, "--requeue", 999) == 2
    assert called("outbox", state, "--requeue", "some") == 2
    assert called("outbox", state, "--requeue", "all") == 0
    outbox.close()
    assert called("outbox", ran.parent / "pictures") == 2
    assert "outbox.sqlite is not there" in capsys.readouterr().err.replace(":", "")


def test_events_are_shown_from_what_the_line_left(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("outbox", "jsonl"):
        capsys.readouterr()
        words = ("--from", source, "--type", "defect", "--camera", "right", "--last", 5, "--json")
        assert called("events", ran, *words) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["data"]["sequence"] for one in shown] == [15, 16, 17, 18, 19]
    assert called("events", ran, "--kind", "stopped") == 0
    assert "20 received, 0 ok, 20 defect" in capsys.readouterr().out
    assert called("events", ran, "--from", "kafka") == 2
