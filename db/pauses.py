"""Many rows at once without pauses: a history of a hundred thousand measurements is read in half of the time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_pauses() -> Iterator[None]:
    """Let Python look for unreachable cycles after this block, not in it.

    A hundred thousand new rows make it look several times through all that is loaded, torch and Prefect as well.
    Rows hold no cycles.
    """
    if not gc.isenabled():  # another thread's block, which ends with it enabled; or nobody wants it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
