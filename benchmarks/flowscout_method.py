"""Flowscout itself as a method under test: the real product, from a campaign file to its SQL history.

The only file here that knows `flowscout.Campaign`. No scheduler runs: each proposal is one `campaign.ask()`,
and what the benchmark measured is told, as a laboratory would. So a landscape need not be a table.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rivals_base import Problem

from flowscout import Campaign
from flowscout.errors import ConfigError, StateError
from flowscout.loop.config import parse_campaign
from flowscout.loop.spaces.alphabets import ALPHABETS

PROPOSERS = {"flowscout": "auto", "flowscout-nogfn": "local_search", "exhaustive": "exhaustive"}
"""What `proposer.type` each of our own methods is. Everything else is the product's default."""

_PROPERTY = "score"


class FlowscoutMethod:
    """A temporary campaign, asked for one batch at a time."""

    def __init__(
        self, problem: Problem, rng: np.random.Generator, *, proposer: str, settings: Mapping[str, Any]
    ) -> None:
        self._file = campaign_file(problem, proposer=proposer, settings=settings, seed=int(rng.integers(2**31)))
        self._folder = tempfile.TemporaryDirectory(prefix="flowscout-bench-")
        self._campaign: Campaign | None = None

    def observe(self, objects: Sequence[str], scores: Sequence[float]) -> None:
        """Tell the campaign what was measured; the first time, open it."""
        if self._campaign is None:
            self._campaign = self._open()
        if objects:
            table = pd.DataFrame({"object": list(objects), _PROPERTY: list(scores)})
            self._campaign.tell(table, source="benchmark")

    def propose(self, n: int) -> list[str]:
        """Ask for a batch of `n`; an empty one where the campaign has nothing left to propose."""
        if self._campaign is None:
            self._campaign = self._open()
        try:
            batch = self._campaign.ask(n)
        except StateError:
            if self._campaign.status().state == "finished":
                return []
            raise
        return [str(item) for item in batch["object"]]

    def facts(self) -> dict[str, Any]:
        """Return who made what was measured, as shares of it, and how often trainings asked the surrogate."""
        if self._campaign is None:
            return {}
        bench = self._campaign.workbench
        origins: Counter[str] = Counter()
        asked = 0
        for record in bench.history.rounds.all(bench.campaign.id):
            origins.update(one.origin for one in bench.history.rounds.proposals(record.id, selected=True))
            run = bench.history.rounds.sampler(record.id)
            asked += 0 if run is None else int(run.diagnostics.get("evaluations", 0))
        shares = {f"from_{name}": round(n / origins.total(), 3) for name, n in sorted(origins.items())}
        return shares | {"training_evaluations": asked}

    def close(self) -> None:
        """Remove the temporary campaign."""
        if self._campaign is not None:
            self._campaign.close()
        self._folder.cleanup()

    def _open(self) -> Campaign:
        folder = Path(self._folder.name)
        path = folder / "campaign.yaml"
        path.write_text(yaml.safe_dump(self._file, sort_keys=False), encoding="utf-8")
        return Campaign.from_yaml(path, db=f"sqlite:///{folder / 'campaign.db'}")


def campaign_file(
    problem: Problem, *, proposer: str, settings: Mapping[str, Any], seed: int = 0
) -> dict[str, Any]:
    """Return the campaign file of a problem: the product's defaults, then `settings` by dotted keys.

    Raises: ConfigError, in the product's own words, for what a campaign file cannot say.
    """
    names = {letters: name for name, letters in ALPHABETS.items()}
    content: dict[str, Any] = {
        "campaign": "benchmark",
        "seed": seed,
        "space": {
            "type": "sequence",
            "alphabet": names.get(problem.alphabet, problem.alphabet),
            "length": problem.length,
            "strand": "single" if problem.image is None else "double",
        },
        "objectives": [{"name": _PROPERTY, "direction": "maximize"}],
        "oracle": {"type": "lab"},
        "proposer": {"type": proposer},
        "batch": {"size": 1},  # each batch says its own size
        "budget": {"rounds": 1_000_000},  # the benchmark stops by itself
    }
    for key, value in settings.items():
        _put(content, key, value)
    parse_campaign(yaml.safe_dump(content), name="the campaign file")
    return content


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key, making the sections that are not there."""
    *sections, name = key.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(
                f"{key}={value!r} was set, expected keys into the sections of a campaign file; {section} is none. "
                "Write for example batch.explore=0.25."
            )
    place[name] = value
