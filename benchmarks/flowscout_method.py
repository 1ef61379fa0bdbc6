"""Flowscout itself as a method under test: the real product, from a campaign file to its SQL history.

The only file here that knows `flowscout.Campaign`. No scheduler runs: each proposal is one
`campaign.run_round()`, whose `table` oracle measures the batch, and the batch is read back from the history.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rivals import Problem

from flowscout import Campaign

_PROPERTY = "score"


class FlowscoutMethod:
    """A temporary campaign on a landscape's table, asked for one round at a time."""

    def __init__(self, problem: Problem, rng: np.random.Generator, *, table: str) -> None:
        self._problem = problem
        self._seed = int(rng.integers(2**31))
        self._table = table
        self._folder = tempfile.TemporaryDirectory(prefix="flowscout-bench-")
        self._initial = pd.DataFrame(columns=["object", _PROPERTY])
        self._campaign: Campaign | None = None
        self._rows_seen = 0

    def observe(self, objects: Sequence[str], scores: Sequence[float]) -> None:
        """Keep the initial labels; later ones are in the history already, put there by the table oracle."""
        if self._campaign is None:
            self._initial = pd.DataFrame({"object": list(objects), _PROPERTY: list(scores)})

    def propose(self, n: int) -> list[str]:
        """Run one round and return the objects that it had measured, in the order of the history.

        One row of the history is one measurement, so an object that was bought twice is returned twice and
        counts as a wasted call.
        """
        if self._campaign is None:
            self._campaign = self._open(n)
            self._rows_seen = len(self._campaign.history())
        self._campaign.run_round()
        history = self._campaign.history().sort_values("seq")
        objects = history["object"].iloc[self._rows_seen :].tolist()
        self._rows_seen = len(history)
        return [str(item) for item in objects]

    def close(self) -> None:
        """Remove the temporary campaign."""
        self._folder.cleanup()

    def _open(self, batch_size: int) -> Campaign:
        folder = Path(self._folder.name)
        config = folder / "campaign.yaml"
        config.write_text(yaml.safe_dump(self._config(batch_size), sort_keys=False), encoding="utf-8")
        campaign = Campaign.from_yaml(config, db=f"sqlite:///{folder / 'campaign.db'}")
        campaign.tell(self._initial, source="benchmark-start")
        return campaign

    def _config(self, batch_size: int) -> dict[str, object]:
        """Return the campaign file: the defaults of the product, nothing tuned to a table."""
        alphabet = self._problem.alphabet
        space: dict[str, object] = {
            "type": "sequence",
            "alphabet": "dna" if alphabet == "ACGT" else alphabet,
            "length": self._problem.length,
        }
        if self._problem.image is not None:
            space["strand"] = "double"
        return {
            "campaign": "benchmark",
            "seed": self._seed,
            "space": space,
            "objectives": [{"name": _PROPERTY, "direction": "maximize"}],
            "oracle": {"type": "table", "path": self._table},
            "batch": {"size": batch_size},
            "budget": {"rounds": 1_000_000},  # the benchmark stops by itself
        }
