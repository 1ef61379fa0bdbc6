"""Functions in threads and on an event loop, awaited for so long and no longer.

A thread cannot be ended from outside: past its time it is left to itself, and its answer comes late or never. A
coroutine is cancelled.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import cache
from typing import Any, TypeVar

from flowscout.errors import OracleTimeoutError

T = TypeVar("T")

GRACE_S = 1.0
"""How long a cancelled coroutine may take to end."""


def in_time(work: Callable[[], T], *, timeout_s: float | None, name: str) -> T:
    """Return what `work` returns, in a thread of its own where its time is limited.

    Raises:
        OracleTimeoutError: it takes longer; the thread goes on, and `late` is where its answer will come.
    """
    if timeout_s is None:
        return work()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)

    threading.Thread(target=run, name="flowscout-call", daemon=True).start()
    try:
        return future.result(timeout_s)
    except NotYet:
        if future.done():  # the function's own TimeoutError
            return future.result()
        raise OracleTimeoutError(
            f"oracle {name!r} took longer than {timeout_s:g} s (timeout_s). A thread cannot be ended: it goes on, "
            "and an answer that comes late is recorded. With run_in: process it is killed.",
            late=future,
        ) from None


def awaited(coroutine: Coroutine[Any, Any, T], *, timeout_s: float | None, name: str) -> T:
    """Return what a coroutine returns, on the one event loop that all oracles of this process share.

    Raises:
        OracleTimeoutError: it takes longer, and was cancelled.
    """

    async def bounded() -> Any:
        try:
            return await asyncio.wait_for(_contained(coroutine), timeout_s)
        except asyncio.CancelledError:
            return _Raised(OracleTimeoutError(f"oracle {name!r} was cancelled by itself or by its loop."))

    future = asyncio.run_coroutine_threadsafe(bounded(), _loop())
    try:
        found = future.result(None if timeout_s is None else timeout_s + GRACE_S)
    except NotYet:
        future.cancel()
        raise OracleTimeoutError(
            f"oracle {name!r} took longer than {timeout_s:g} s (timeout_s) and was cancelled. What it awaits may "
            "have happened all the same."
        ) from None
    except BaseException:  # somebody breaks off
        future.cancel()
        raise
    if isinstance(found, _Raised):
        raise found.error
    return found  # type: ignore[no-any-return]


class _Raised:
    """What a coroutine raised, as a value: some of it would end the loop that others are on."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        return _Raised(error)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="flowscout-loop", daemon=True).start()
    return loop
