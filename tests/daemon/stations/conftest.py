"""One camera's ingest, ended when its test is over."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from plant.ingest import Line

from daemon.supervise import Backoff


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    line = Line(tmp_path)
    yield line
    line.ingest.stop()
    async with asyncio.timeout(10):
        await line.ingest.done.wait()
    line.ring.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.stations.ingest.Backoff", lambda: Backoff(0.001, 0.002))
