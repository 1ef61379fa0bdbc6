"""What every test shares."""

import os
import sys
from collections.abc import Iterator

import pytest

# Small kernels on two busy cores: threads that wait for each other made the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOMS = ("loop", "db", "flows", "surrogates")


@pytest.fixture(autouse=True, scope="session")
def _no_module_under_two_names() -> Iterator[None]:
    """Fail the session if a room was loaded by its folder's name beside its name in the package."""
    yield
    twice = [name for name in sys.modules if name.split(".")[0] in ROOMS]
    assert twice == [], f"loaded a second time outside of flowscout: {twice}"
