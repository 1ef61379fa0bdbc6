"""The benchmark of growing cost: what is measured, and the powers that the table shows."""

import cost_growth
import pytest


def test_powers_are_those_of_the_growth_since_the_row_before():
    rows = [
        {"surrogate": "gp", "length": 8, "labels": 100, "fit_s": 1.0, "reward_s": 0.5},
        {"surrogate": "gp", "length": 8, "labels": 1_000, "fit_s": 1_000.0, "reward_s": 0.5},
        {"surrogate": "linear", "length": 8, "labels": 10_000, "fit_s": 2.0, "reward_s": 1.0},
        {"surrogate": "linear", "length": 8, "labels": 100_000, "note": "over 120 s"},
    ]
    cost_growth.add_powers(rows)
    assert rows[1]["fit_power"] == pytest.approx(3.0)
    assert rows[1]["reward_power"] == pytest.approx(0.0)
    assert not any("fit_power" in rows[k] for k in (0, 2, 3))


def test_a_cell_has_seconds_memory_and_an_error():
    row = cost_growth.measure("linear", 60, 5)
    assert row["labels"] == 60
    assert min(row["fit_s"], row["reward_s"], row["draw_s"]) > 0.0
    assert row["rmse"] > 0.0
    assert row["peak_mb"] > 0
