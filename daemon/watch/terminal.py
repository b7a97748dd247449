"""The line on a terminal: verdicts, rates, latency and ledger while it runs."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from adapters.ports import Outcome, Verdict
from daemon.deadlines import percentile
from daemon.service import Service

REFRESH_SECONDS = 0.25
RATE_SECONDS = 5.0
RECENT = 40  # verdicts of the strip, newest to the right
COLOURS = {Outcome.OK: "green", Outcome.DEFECT: "red", Outcome.UNINSPECTED: "yellow"}


class Watch:
    """Remembers what it is told, and draws it. Event loop."""

    def __init__(self) -> None:
        self.latencies_ms: deque[float] = deque(maxlen=2000)
        self._recent: dict[str, deque[Outcome]] = {}
        self._times: dict[str, deque[float]] = {}
        self._defects: deque[Verdict] = deque(maxlen=6)

    def tell(self, verdict: Verdict) -> None:
        camera = verdict.exposure.id.camera
        self._recent.setdefault(camera, deque(maxlen=RECENT)).append(verdict.outcome)
        self._times.setdefault(camera, deque(maxlen=1000)).append(time.monotonic())
        if verdict.outcome is not Outcome.UNINSPECTED:
            self.latencies_ms.append(verdict.latency_ms)
        if verdict.outcome is Outcome.DEFECT:
            self._defects.append(verdict)

    async def show(self, service: Service, console: Console) -> None:
        """Until cancelled; the last picture stays on the screen."""
        with Live(console=console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self._draw(service), refresh=True)
                    await asyncio.sleep(REFRESH_SECONDS)
            finally:
                live.update(self._draw(service), refresh=True)

    def _draw(self, service: Service) -> Panel:
        parts = service.parts
        worker = parts.score.worker
        state = f"worker {worker.pid} on {worker.device}" if worker else "no worker"
        p50, p99 = (percentile(self.latencies_ms, q) for q in (50, 99))
        latency = f"p50 {p50:.0f} ms, p99 {p99:.0f} ms" if self.latencies_ms else "-"
        status = Text.assemble(
            (state, "green" if worker else "bold red"),
            f"  ·  restarts {parts.score.restarts}",
            f"  ·  exposure to verdict {latency}",
        )
        below = self._defect_table() if self._defects else Text("no defect yet", "dim")
        return Panel(
            Group(status, self._cameras(service), below),
            title=f"Clearline · {parts.line.name}",
            subtitle="Ctrl-C ends",
        )

    def _cameras(self, service: Service) -> Table:
        table = Table("camera", "last verdicts", box=None, padding=(0, 1))
        for name in ("a second", "received", "ok", "defect", "uninspected", "in flight"):
            table.add_column(name, justify="right")
        for account in service.parts.ledger.accounts():
            counts = account.counts()
            why = ", ".join(f"{reason} {n}" for reason, n in counts.uninspected.items())
            missed = sum(counts.uninspected.values())
            table.add_row(
                account.camera,
                _strip(self._recent.get(account.camera, ())),
                f"{self._rate(account.camera):.1f}",
                str(counts.received),
                f"[green]{counts.ok}",
                f"[red]{counts.defect}",
                f"[yellow]{missed}" + (f" ({why})" if why else ""),
                str(counts.in_flight),
            )
        return table

    def _defect_table(self) -> Table:
        table = Table("last defects", "score / threshold", "latency", box=None, padding=(0, 1))
        for verdict in reversed(self._defects):
            ratio = (verdict.score or 0.0) / (verdict.threshold or 1.0)
            bar = "█" * min(30, round(10 * ratio))
            table.add_row(
                f"[red]{verdict.exposure.id}", f"{ratio:5.2f} [red]{bar}",
                f"{verdict.latency_ms:.0f} ms",
            )  # fmt: skip
        return table

    def _rate(self, camera: str) -> float:
        since = time.monotonic() - RATE_SECONDS
        return sum(t > since for t in self._times.get(camera, ())) / RATE_SECONDS


def _strip(outcomes: Iterable[Outcome]) -> Text:
    return Text.assemble(*(("▪", COLOURS[outcome]) for outcome in outcomes))
