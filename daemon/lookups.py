"""Where the loop looks up host names, and aiokafka does its sums: threads that nobody waits for.

asyncio's own executor is joined at the end of the loop, and again at the end of the interpreter:
with a name server that hangs, a stop would take as long as it does.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lookups(ThreadPoolExecutor):
    """As asyncio wants it; but each call has a daemon thread of its own."""

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 (it is the caller's)
                future.set_exception(error)

        threading.Thread(target=work, name="lookup", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Whoever is still at it is left."""
