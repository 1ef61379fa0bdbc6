"""What docs/engine.md says of the engine is what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from flowscout import CatalogueSpace, DagSpace, GridSpace, SequenceSpace, SubsetSpace
from flowscout.loop.gflownet.objectives import BackwardPolicy, Loss, Objective

TEXT = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()

COLUMNS = {
    "sequence": [SequenceSpace("dna", 4), SequenceSpace("dna", 4, min_length=2)],
    "sequence grown at both ends": [
        SequenceSpace("dna", 4, ends="both"),
        SequenceSpace("dna", 4, min_length=2, ends="both"),
    ],
    "grid, subset, DAG": [GridSpace(2, 4), SubsetSpace(5), SubsetSpace(5, max_size=2), DagSpace(3)],
    "subset of one size": [SubsetSpace(5, size=2)],
}


def legal(loss: Loss, column: str) -> str:
    """Return the table's cell: the backward policies that a loss takes on every space of a column."""
    cells = {
        tuple(
            policy
            for policy in get_args(BackwardPolicy)
            if Objective(loss, policy).refusal(space, partial_reward=True) is None
        )
        for space in COLUMNS[column]
    }
    assert len(cells) == 1, f"the spaces of the column {column!r} differ under {loss}"
    return ", ".join(cells.pop()) or "none"


def test_the_table_of_legal_combinations_is_that_of_the_code() -> None:
    rows = [f"| loss | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for loss in get_args(Loss):
        rows.append(f"| `{loss}` | {' | '.join(legal(loss, column) for column in COLUMNS)} |")
    assert "\n".join(rows) in TEXT


def test_a_catalogue_takes_what_a_sequence_takes() -> None:
    catalogue = CatalogueSpace(["a", "b", "c"], [[0.0], [1.0], [2.0]])
    for loss in get_args(Loss):
        for policy in get_args(BackwardPolicy):
            refused = [
                Objective(loss, policy).refusal(space, partial_reward=True) is not None
                for space in (SequenceSpace("dna", 4), catalogue)
            ]
            assert refused[0] == refused[1], (loss, policy)


def test_the_exceptions_told_below_the_table_are_those_of_the_code() -> None:
    assert Objective("trajectory_balance", "learned").refusal(GridSpace(1, 4), partial_reward=False)
    grid = GridSpace(2, 4)
    assert Objective("forward_looking_detailed_balance").refusal(grid, partial_reward=False)
    without = {loss for loss in get_args(Loss) if not Objective(loss).needs_log_z}
    assert without == {"log_partition_variance", "modified_detailed_balance"}


# Losses fall and objects differ from one version of torch to the next: that the blocks run is what is tested.
@pytest.mark.filterwarnings("error")
def test_the_blocks_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), "docs/engine.md", "exec"), {"__name__": "engine"})
