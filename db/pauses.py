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
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:  # who began first ends it, where several threads read
            gc.enable()
