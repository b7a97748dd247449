"""A real PostgreSQL of our own on a free loopback port, that lets everybody in."""

import getpass
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from plant.broker import free_port

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
OWNER = "postgres"
"""It refuses to be run by root."""


class Postgres:
    """Starts at once. Use as a context manager."""

    def __init__(self) -> None:
        self._user = OWNER if os.getuid() == 0 else getpass.getuser()
        # Not in a folder of pytest's, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if os.getuid() == 0:
            shutil.chown(self._folder, OWNER)
        self._data, port = self._folder / "data", free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._run("initdb", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "-D", self._data)
        options = f"-p {port} -h 127.0.0.1 -k {self._folder} -F"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: object) -> None:
        ended = subprocess.run(
            [PROGRAMS / program, *map(str, arguments)], user=self._user, cwd=self._folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
