"""One real call of an oracle for one object, outside of any campaign: nothing is stored.

The answer is read as a campaign reads it (`loop.measuring`); how it is shown belongs in `flowscout.cli`.
"""

import random
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flowscout.db import CampaignRecord, CampaignState, Claim, ConfigRecord, History, Outcome
from flowscout.errors import ConfigError
from flowscout.loop.config import CampaignFile
from flowscout.loop.measuring import measure
from flowscout.loop.oracles import OracleInfo
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.workbench import Tools, Workbench
from flowscout.version import __version__

TRIES = 2_000
"""Objects that are drawn at most to find one that the rules of the space allow."""


@dataclass(frozen=True)
class Trial:
    """What came of one call: the object, the key it was called with, how long it took."""

    object: str
    key: str
    seconds: float
    outcome: Outcome

    @property
    def values(self) -> dict[str, float | None]:
        """The numbers that came, by property."""
        return {one.property: one.value for one in self.outcome.measurements}

    @property
    def succeeded(self) -> bool:
        """Whether there are values, or will be: the call was accepted and its answer comes by itself."""
        return bool(self.outcome.measurements) or self.outcome.pending_s is not None


def bench_for_trial(file: CampaignFile) -> Workbench:
    """Return a workbench that can call the oracle of a file and read its answers, and has no history."""
    version = ConfigRecord(
        sha256=file.sha256, yaml=file.text, folder=str(file.folder), package_version=__version__
    )
    campaign = CampaignRecord(0, "", file.config.campaign, file.config.seed or 0, 0, CampaignState.ACTIVE)
    tools = Tools(file.config, version, places=(Path(file.folder),))
    return Workbench(cast("History", None), campaign, file.config, version, tools)


def try_oracle(bench: Workbench, text: str) -> Trial:
    """Call the oracle once for one object, with a key that no campaign uses.

    Raises:
        ObjectError: the object is not in the space.
        ConfigError: the oracle is people, who cannot be called.
    """
    info = bench.oracle.info
    if info.waits_for_people:
        raise ConfigError(
            f"oracle {info.name!r} is people at a bench: nothing can be called. Leave out --call; `flowscout ask` "
            "hands out what is to be measured."
        )
    bench.tools.rules.key(text)
    claim = Claim(
        attempt_id=0,
        evaluation_id=0,
        candidate_id=0,
        number=1,
        token="",
        object=text,
        idempotency_key=f"try-{uuid.uuid4().hex}",
        replicate=1,
        fidelity=info.fidelity,
    )
    began = time.perf_counter()
    (outcome,) = measure(bench, [claim])
    return Trial(text, claim.idempotency_key, time.perf_counter() - began, outcome)


def any_object(bench: Workbench) -> str:
    """Return an object of the space: the wild type, the first of a list, or one that is drawn.

    Raises:
        ConfigError: none was found that the rules of the space allow.
    """
    rules, section = bench.tools.rules, bench.config.space
    if isinstance(rules, Listing):
        return rules.names[0]
    wild_type: str | None = getattr(section, "wild_type", None)
    if wild_type is not None and rules.validate(wild_type) is None:
        return rules.normalise(wild_type)
    draw = random.Random(bench.config.seed or 0)
    for _ in range(TRIES):
        text = "".join(draw.choice(rules.choice(position)) for position in range(rules.length))
        if rules.validate(text) is None:
            return text
    raise ConfigError(
        f"{TRIES} sequences were drawn and the rules of the space allow none of them; name an object: "
        "flowscout validate FILE OBJECT --call."
    )


def declared(info: OracleInfo) -> dict[str, Any]:
    """Return what an oracle says of itself, as it is shown and printed as JSON."""
    calling = info.calling
    return {
        "name": info.name,
        "version": info.version,
        "fidelity": info.fidelity,
        "cost_usd": info.cost_usd,
        "idempotent": info.idempotent,
        "lookup": info.lookup,
        "batch": calling.batch,
        "concurrency": calling.concurrency,
        "timeout_s": calling.timeout_s,
        "rate_per_s": calling.rate_per_s,
    }
