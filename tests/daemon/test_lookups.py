"""Host names that nobody answers hold up no stop."""

import subprocess
import sys
import time

import pytest

from daemon.lookups import Lookups

HANGS = """
import asyncio, socket, time
from daemon.lookups import Lookups
socket.getaddrinfo = lambda *_, **__: time.sleep(30)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Lookups())
    looking = loop.create_task(loop.getaddrinfo("kafka-1", 9092))
    await asyncio.sleep(0.1)
    looking.cancel()

asyncio.run(main())
"""


def test_a_name_server_that_hangs_holds_up_neither_the_loops_end_nor_the_interpreters() -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", HANGS], check=True, timeout=25)
    assert time.monotonic() - began < 20


def test_what_is_asked_is_answered_or_fails_as_it_did() -> None:
    lookups = Lookups()
    assert lookups.submit(pow, 2, 5).result(5) == 32
    with pytest.raises(ZeroDivisionError):
        lookups.submit(divmod, 1, 0).result(5)
