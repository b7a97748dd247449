"""The PLC chooses the recipe: the switch falls on a part border, at once, and no frame is judged by
the wrong model. One model here calls everything ok and the other everything a defect."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plant.broker import Broker
from plant.line_here import LineHere
from plant.mqtt import BASE, Plc, states, until

from adapters.ports import Outcome, Reason, Verdict
from model.bundle import Bundle
from model.calibration import Calibration, beside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

STRIPS = 3  # frames of a part
SWITCHES = 12
PERIOD_S = 0.03
CONFIG = """
[recipes.default]
bundle = "default.safetensors"
[recipes.strict]
bundle = "strict.safetensors"
[mqtt]
host = "127.0.0.1"
port = {port}
base = "{base}"
"""
SAYS = {"default": Outcome.OK, "strict": Outcome.DEFECT}


def from_line(recipe: str, parts: int = 0, accepted: int = 0) -> bytes:
    counts = {"parts": parts, "accepted": accepted, "rejected_defect": 0, "rejected_silent": 0}
    return json.dumps({"run": True, "recipe": recipe, "last_msg_no": [0], **counts}).encode()


async def test_every_switch_is_under_100_ms_on_a_part_border_and_never_the_wrong_model(
    tmp_path: Path, tiny_bundle: Bundle, calibration_for: Callable[..., Calibration]
) -> None:
    for name, threshold in (("default", 1e9), ("strict", 0.0)):
        path = tmp_path / f"{name}.safetensors"
        tiny_bundle.save(path)
        calibration_for(tiny_bundle, threshold=threshold).save(beside(path))
    with Broker(tmp_path) as broker:
        more = CONFIG.format(port=broker.port, base=BASE)
        async with LineHere(tmp_path, more) as line, Plc(broker, f"{BASE}/state") as plc:
            line.stop_showing()
            await until(lambda: not line.service.parts.ledger.account("left").counts().in_flight)
            line.verdicts.clear()
            first, asked = line.sent, []
            showing = asyncio.create_task(show_parts(line))
            for switch in range(SWITCHES):
                recipe = ("strict", "default")[switch % 2]
                await asyncio.sleep(0.2 + 0.013 * switch)  # at ever other moments of a part
                asked.append((recipe, time.monotonic_ns()))
                plc.says("line", from_line(recipe))
                await until(
                    lambda r=recipe: (states(plc) or [{}])[-1].get("recipes") == {"left": r}
                )
            await asyncio.sleep(0.2)
            showing.cancel()
            await until(lambda: len(line.verdicts) == line.sent - first)
    at_gate = line.judged(frames_per_part=STRIPS)
    print(f"\n{at_gate}")
    assert at_gate.without_ok == ()
    assert at_gate.passed > 0
    verdicts = [line.verdicts[n] for n in range(first, line.sent)]
    took_ms = [switch_ms(verdicts, recipe, at_ns) for recipe, at_ns in asked]
    between = sum(v.reason is Reason.CHANGEOVER for v in verdicts)
    print(f"\n{len(verdicts)} frames, {SWITCHES} switches, from the PLC's word to the first frame "
          f"exposed for the new recipe up to {max(took_ms):.1f} ms beyond the part under way, "
          f"{between} frames changeover")  # fmt: skip
    for verdict in verdicts:
        if verdict.reason is not Reason.CHANGEOVER:
            assert verdict.outcome is SAYS[verdict.recipe]
    parts: dict[int, set[str]] = {}
    for verdict in verdicts:
        parts.setdefault(verdict.exposure.part, set()).add(verdict.recipe)
    assert all(len(recipes - {""}) <= 1 for recipes in parts.values()), "no part by two models"
    assert max(took_ms) < 100
    told = [json.loads(text)["data"] for text in events(tmp_path)]
    changed = [(d["before"], d["after"]) for d in told if d.get("kind") == "model_changed"]
    assert changed == [("default", "strict"), ("strict", "default")] * (SWITCHES // 2)


async def test_a_gate_that_lets_more_through_than_we_called_ok_is_an_alarm(
    tmp_path: Path, tiny_files: Path
) -> None:
    assert tiny_files.parent == tmp_path
    recipe = '[recipes.default]\nbundle = "tiny.safetensors"\n'
    with Broker(tmp_path) as broker:
        mqtt = CONFIG.format(port=broker.port, base=BASE).partition("[mqtt]")
        async with LineHere(tmp_path, recipe + "[mqtt]" + mqtt[2]) as line, Plc(broker) as plc:
            for accepted in (0, 0, 10_000):
                heard = len(line.verdicts)
                plc.says("line", from_line("", parts=accepted, accepted=accepted))
                await until(lambda n=heard: len(line.verdicts) > n + 5)
    alarms = [d for d in map(json.loads, events(tmp_path)) if d["data"].get("kind") == "alarm"]
    print(f"\n{[d['data'] for d in alarms]}")
    assert [d["data"]["alarm"] for d in alarms] == ["passed_without_ok"]
    assert 9_000 < alarms[0]["data"]["parts"] <= 10_000


def switch_ms(verdicts: list[Verdict], recipe: str, asked_ns: int) -> float:
    """From the first frame of a part that wholly came after the asking to the first one that the
    new recipe judged."""
    begun = {v.exposure.part for v in verdicts if v.exposure.exposed_ns < asked_ns}
    after = [v for v in verdicts if v.exposure.exposed_ns >= asked_ns]
    border = next(v for v in after if v.exposure.part not in begun)
    new = next(v for v in after if v.recipe == recipe)
    return (new.exposure.exposed_ns - border.exposure.exposed_ns) / 1e6


async def show_parts(line: LineHere) -> None:
    part = 10_000
    while True:
        part += 1
        for _ in range(STRIPS):
            line.show(line.picture(), part)
            await asyncio.sleep(PERIOD_S)


def events(folder: Path) -> list[str]:
    return (folder / "state/events.jsonl").read_text().splitlines()
