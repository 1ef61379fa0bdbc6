"""A policy of sequences under rules is trained to the exact law, as in `benchmarks/exactness.py`."""

import exactness
import pytest
from exactness import LIMIT, Cell, run

from flowscout.loop.spaces import SequenceSpace

SPACES = {
    "mutants": lambda: SequenceSpace("dna", 6, wild_type="ACGTTA", max_mutations=2),
    "both strands": lambda: SequenceSpace("dna", 5, strand="double", forbid=["GAN"], gc=[0.2, 0.6], homopolymer=2),
}


@pytest.mark.parametrize("name", SPACES)
def test_ruled_space_reaches_the_exact_law(monkeypatch, name):
    monkeypatch.setitem(exactness.SPACES, name, SPACES[name])
    row = run(Cell(name, "trajectory_balance", "uniform", "epsilon"), 250, seed=0, wrong_sign=False)
    assert row.tv_untrained >= exactness.UNTRAINED
    assert row.tv < LIMIT
    assert row.log_z_error < LIMIT
