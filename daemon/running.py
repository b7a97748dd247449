"""`clearline run` and `clearline check`: a configuration file, put to work or only looked at."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.ports import VerdictSink
from daemon import config, console, logs, wiring
from daemon.config import Configuration
from daemon.service import serve
from daemon.watch.terminal import Watch
from daemon.wiring import Room


def run_line(path: Path, *, watch: bool) -> None:
    """Raises clearline.Error where the line cannot start, or where a part of it failed."""
    settings = config.load(path)
    logs.configure(settings.log)
    asyncio.run(live(settings, path.parent, Watch() if watch else None, ()))


async def live(
    settings: Configuration, base: Path, watch: Watch | None, sinks: Sequence[VerdictSink]
) -> None:
    """The line's whole life, on the terminal as well where there is a `watch`."""
    seen = (*sinks, watch) if watch is not None else sinks
    service = wiring.build(settings, base, seen)
    view = None if watch is None else asyncio.create_task(watch.show(service, console.results))
    try:
        await serve(service)
    finally:
        if view is not None:
            view.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await view


def check_line(path: Path) -> dict[str, Any]:
    """What can be known without a worker; makes the state folder. Raises clearline.Error."""
    settings = config.load(path)
    for camera in settings.cameras.values():
        wiring.source(camera.url, path.parent)
    models = {name: wiring.check_recipe(r) for name, r in settings.recipes.items()}
    wiring.make_state_dir(settings.state_dir)
    rooms = {name: Room.of(camera) for name, camera in settings.cameras.items()}
    ring = wiring.ring_bytes(rooms)
    return {
        "line": settings.line,
        "state_dir": str(settings.state_dir),
        "ring_mib": round(ring / (1 << 20), 1),
        **{f"recipe {name}": f"{model.name} ({model.hash})" for name, model in models.items()},
        **{
            f"camera {name}": f"{camera.url}, {rooms[name].slots} slots, recipe {camera.recipe}"
            for name, camera in settings.cameras.items()
        },
    }
