"""Paired comparisons say what the bootstrap says, and refuse what cannot be compared."""

import numpy as np
import pytest
from report import paired_bootstrap, paired_table

from flowscout.errors import ConfigError

FIGURES = {"mean_top128": 0.5, "distinct_hits": 3, "best": 0.9, "auc_top10": 0.4}


def row(method, seed, **changed):
    return {"method": method, "seed": seed, **FIGURES, **changed}


def test_interval_of_a_constant_difference_is_that_difference():
    b = np.array([1.0, 2.0, 3.0, 4.0])
    difference, ratio = paired_bootstrap(b + 0.5, b)
    # 1e-12: float64 sums of four numbers.
    assert difference == pytest.approx((0.5, 0.5), abs=1e-12)
    assert ratio[0] >= 1.0 + 0.5 / 4.0 - 1e-12
    assert ratio[1] <= 1.5 + 1e-12


def test_interval_is_near_that_of_the_normal_law():
    rng = np.random.default_rng(0)
    b = rng.normal(size=400)
    a = b + rng.normal(0.2, 1.0, size=400)
    low, high = paired_bootstrap(a, b)[0]
    half = 1.96 * (a - b).std() / 20.0
    # 0.05 of the half-width 0.1 x 10: the Monte Carlo error of a 2.5% quantile of 10,000 is about 0.002.
    assert low == pytest.approx((a - b).mean() - half, abs=0.01)
    assert high == pytest.approx((a - b).mean() + half, abs=0.01)


def test_pairing_removes_what_the_seeds_share():
    shared = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    low, high = paired_bootstrap(shared + np.array([1.0, 1.1, 0.9, 1.0, 1.0]), shared)[0]
    assert 0.9 <= low <= high <= 1.1


def test_ratio_to_nothing_is_infinite_and_of_nothing_one():
    nothing = np.zeros(3)
    assert paired_bootstrap(np.ones(3), nothing)[1] == (np.inf, np.inf)
    assert paired_bootstrap(nothing, nothing)[1] == (1.0, 1.0)


def test_only_common_seeds_are_compared():
    rows = [row("a", 0), row("a", 1), row("a", 2, best=0.0), row("b", 0), row("b", 1)]
    table = paired_table(rows, "a", "b")
    assert "2 seeds" in str(table.title)
    best = [list(column.cells)[2] for column in table.columns]
    assert best[:4] == ["best", "0.9000", "0.9000", "+0.0000"]
    with pytest.raises(ConfigError, match="1 common seeds"):
        paired_table(rows[:4], "a", "b")
    with pytest.raises(ConfigError, match="a, b"):
        paired_table(rows, "a", "c")
