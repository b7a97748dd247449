"""PLC: what is said to the machine at the gate, and what is heard from it. Event loop."""

import time
from collections.abc import Callable, Mapping

import structlog

from adapters.ports import LineTold, PartTold, PlcRoad, Verdict
from daemon.pulse import Pulse
from daemon.recipes import Recipes
from daemon.records.reconcile import Disagreement, Reconciliation

log = structlog.get_logger()


class Plc:
    """A verdict sink; without a PLC the line has none."""

    def __init__(
        self,
        road: PlcRoad,
        pulse: Pulse,
        reconciliation: Reconciliation,
        recipes: Recipes,
        numbers: Mapping[str, int],
        alarm: Callable[[Disagreement], None],
    ) -> None:
        self.pulse = pulse
        self._parts_told = 0
        self._road, self._reconciliation = road, reconciliation
        self._recipes, self._numbers, self._alarm = recipes, numbers, alarm

    def tell(self, verdict: Verdict) -> None:
        self._road.tell(verdict)
        self.pulse.tell(verdict)
        self._reconciliation.tell(verdict)

    def beat(self) -> None:
        self._road.beat(self.pulse.beat())

    def show(self) -> None:
        """What the retained state says: which recipe judges each camera."""
        self._road.state({"recipes": self._recipes.judging_now()})

    async def run(self) -> None:
        await self._road.run(self._hear)

    def _hear(self, told: PartTold | LineTold) -> None:
        if isinstance(told, PartTold):
            found = self._reconciliation.part(told, time.monotonic_ns())
        else:
            sent = {self._numbers[name]: n for name, n in self._road.msg_nos().items()}
            found = [*self._reconciliation.messages(told, sent), *self._reconciliation.line(told)]
            if told.parts < self._parts_told:
                self._recipes.forget_parts()
            self._parts_told = told.parts
            if told.recipe:
                self._recipes.ask(told.recipe)
        for disagreement in found:
            log.error("the PLC disagrees", alarm=disagreement.alarm, parts=disagreement.parts)
            self._alarm(disagreement)
