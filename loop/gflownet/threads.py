"""How many CPU threads the small kernels of a policy use.

The caller's choice for its own work (a surrogate's large matrices) does not belong here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block, or a decorated function, on one CPU thread and give the caller's number back after it.

    A policy's kernels last microseconds: on two busy cores, threads that wait for each other made 100 steps
    of 192 trajectories take 9 to 25 s in place of 0.6 s. One thread also makes sums the same on every number
    of cores. The number belongs to the process: train in one Python thread at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
