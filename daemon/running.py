"""`clearline run`: a configuration file, put to work."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

import clearline
from adapters.ports import VerdictSink
from daemon import config, console, logs, wiring
from daemon.config import Configuration
from daemon.lookups import Lookups
from daemon.service import Service, serve
from daemon.watch.terminal import Watch

log = structlog.get_logger()


def run_line(path: Path, *, watch: bool) -> None:
    """Raises clearline.Error where the line cannot start, or where a part of it failed."""
    settings = config.load(path)
    logs.configure(settings.log)
    asyncio.run(live(settings, path, Watch() if watch else None, ()))


async def live(
    settings: Configuration, file: Path, watch: Watch | None, sinks: Sequence[VerdictSink]
) -> None:
    """The line's whole life, on the terminal as well where there is a `watch`."""
    asyncio.get_running_loop().set_default_executor(Lookups())
    seen = (*sinks, watch) if watch is not None else sinks
    service = wiring.build(settings, file.parent, seen)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, _read_again, file, settings, service
    )
    view = None if watch is None else asyncio.create_task(watch.show(service, console.results))
    try:
        await serve(service)
    finally:
        if view is not None:
            view.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await view


def _read_again(file: Path, settings: Configuration, service: Service) -> None:
    """On SIGHUP: cameras go over to the recipes that the file names now, at their next parts."""
    try:
        new = config.load(file)
    except clearline.Error as error:
        log.error("configuration not taken over", problem=str(error))
        return
    if _but_for_recipes(new) != _but_for_recipes(settings):
        log.error("configuration not taken over: more than cameras' recipes differs; restart")
        return
    log.info("configuration read again")
    for name, camera in new.cameras.items():
        service.parts.recipes.ask(camera.recipe, [name])


def _but_for_recipes(settings: Configuration) -> dict[str, Any]:
    said = settings.model_dump()
    for camera in said["cameras"].values():
        del camera["recipe"]
    # Where none is named, a number comes from the camera's place in the file.
    return said | {"numbers": settings.camera_numbers()}
