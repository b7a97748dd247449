"""PLC: what it asks for is done, and its counts are held against ours; on a road of our own."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog

from adapters.ports import Beat, Exposure, LineTold, Outcome, PartTold, Verdict
from daemon.plc import Plc
from daemon.pulse import Pulse
from daemon.recipes import Recipes
from daemon.records.reconcile import Disagreement, Reconciliation


class Road:
    """A road that writes down what goes over it, and tells what the test lets the PLC tell."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.beats: list[Beat] = []
        self.states: list[Mapping[str, Any]] = []
        self.ended = False
        self.hear: Callable[[PartTold | LineTold], None] = lambda _: None

    async def run(self, hear: Callable[[PartTold | LineTold], None]) -> None:
        self.hear = hear
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    def msg_nos(self) -> Mapping[str, int]:
        return {"left": len(self.verdicts)}

    def tell(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    def beat(self, beat: Beat) -> None:
        self.beats.append(beat)

    def state(self, state: Mapping[str, Any]) -> None:
        self.states.append(state)


class Bench:
    def __init__(self) -> None:
        self.road, self.alarms = Road(), list[Disagreement]()
        self.recipes = Recipes(("foil", "steel"), {"left": "foil"}, lambda _: None)
        pulse = Pulse({1: lambda: True}, scores=lambda: True, judges=lambda: True)
        self.plc = Plc(
            self.road, pulse, Reconciliation({"left"}), self.recipes, {"left": 1},
            self.alarms.append,
        )  # fmt: skip

    async def run(self) -> "asyncio.Task[None]":
        task = asyncio.create_task(self.plc.run())
        await asyncio.sleep(0)
        return task


def line(parts: int = 0, accepted: int = 0, recipe: str = "") -> LineTold:
    return LineTold(True, recipe, parts, accepted, 0, parts - accepted, ())


async def test_the_recipe_that_the_plc_chooses_is_asked_for_and_shown(
    exposure: Callable[..., Exposure],
) -> None:
    bench = Bench()
    task = await bench.run()
    for _ in range(3):
        bench.road.hear(line(recipe="steel"))
    assert bench.recipes.judging(exposure(1)) == "steel"
    bench.plc.show()
    assert bench.road.states == [{"recipes": {"left": "steel"}}]
    task.cancel()


async def test_a_plc_that_chooses_no_recipe_changes_none(
    exposure: Callable[..., Exposure],
) -> None:
    bench = Bench()
    task = await bench.run()
    bench.road.hear(line(recipe="steel"))
    bench.road.hear(line(recipe=""))
    assert bench.recipes.judging(exposure(1)) == "steel"
    task.cancel()


async def test_what_disagrees_is_alarmed_and_logged_once() -> None:
    bench = Bench()
    task = await bench.run()
    with structlog.testing.capture_logs() as logs:
        for accepted in (0, 0, 0, 1, 1, 1):
            bench.road.hear(line(accepted, accepted))
        bench.road.hear(PartTold(1, 1))
        bench.road.hear(PartTold(4, 4))
    wanted = [Disagreement("passed_without_ok", 1, 1), Disagreement("triggers_lost", 2, 2)]
    assert bench.alarms == wanted
    assert [(e["alarm"], e["parts"], e["log_level"]) for e in logs] == [
        (d.alarm, d.parts, "error") for d in wanted
    ]
    task.cancel()


async def test_a_verdict_goes_to_the_plc_the_pulse_and_the_reconciliation(
    exposure: Callable[..., Exposure],
) -> None:
    bench = Bench()
    task = await bench.run()
    for accepted in range(5):
        bench.road.hear(line(accepted, accepted))
        told = exposure(accepted + 1, part=accepted + 1)
        bench.plc.tell(Verdict(told, Outcome.OK, None, 0.1, 0.5, told.exposed_ns))
        bench.plc.beat()
    assert [v.exposure.part for v in bench.road.verdicts] == [1, 2, 3, 4, 5]
    assert [beat.verdicts for beat in bench.road.beats] == [1, 2, 3, 4, 5]
    assert bench.alarms == []
    task.cancel()


async def test_the_road_ends_with_the_plc() -> None:
    bench = Bench()
    task = await bench.run()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.road.ended


async def test_a_plc_that_counts_anew_means_other_parts_by_its_numbers(
    exposure: Callable[..., Exposure],
) -> None:
    """Part 1 of the new product is not the part 1 that the old recipe judged a moment ago."""
    bench = Bench()
    task = await bench.run()
    bench.road.hear(line(parts=50))
    assert bench.recipes.judging(exposure(1, part=1)) == "foil"
    bench.road.hear(line(parts=50, recipe="steel"))
    assert bench.recipes.judging(exposure(2, part=1)) == "foil"
    bench.road.hear(line(parts=0, recipe="steel"))
    assert bench.recipes.judging(exposure(3, part=1)) == "steel"
    task.cancel()
