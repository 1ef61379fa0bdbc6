"""Whether the benchmark of calls times what it says, and reckons rightly."""

from pathlib import Path

import pytest
from throughput import Entry, median_row
from throughput_worker import run_campaign


def test_row_holds_medians_and_what_is_over_the_ideal():
    entry = Entry("python", Path("worker.py"), "sqlite", concurrency=4)
    windows = [
        {"system": "ours", "calls": 1000, "seconds": seconds, "choosing_s": 0.25, "path_cpu_s": 0.5}
        for seconds in (1.0, 3.0, 1.5)
    ]
    row = median_row(entry, windows)
    assert row["ms_per_call"] == 1.5
    assert row["ideal_ms"] == 0.25  # a millisecond, shared by four
    assert row["over_ms"] == 1.25
    assert (row["choosing_ms"], row["path_ms"], row["path_cpu_ms"]) == (0.25, 1.0, 0.5)
    assert (row["least_ms"], row["most_ms"], row["calls"]) == (1.0, 3.0, 1000)


@pytest.mark.parametrize("form", ["listed", "single", "waiting"])
def test_window_makes_every_call_through_the_whole_path(form, tmp_path):
    oracle = f"{{type: callable, function: assay:{form}, concurrency: 2}}"
    url = f"sqlite:///{tmp_path}/loop.db"
    whole, choosing = run_campaign(tmp_path, url, calls=8, batch=4, oracle=oracle)  # it counts them itself
    assert 0 < choosing.seconds < whole.seconds
    assert 0 < choosing.cpu_s < whole.cpu_s
