"""When a campaign is done for good: its budget is used up, or a stopping rule of its file holds.

The history alone is asked, so that every process answers alike. Whether a round may start now belongs in
`loop.gates`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowscout.db import FitRecord, RoundState, SamplerRecord
from flowscout.errors import FlowscoutError
from flowscout.loop.outside import inside
from flowscout.loop.workbench import Workbench, at_version

BUDGET_RULES = ("rounds", "cost", "space")


@dataclass(frozen=True)
class Ended:
    """Which rule ends the campaign, why in a sentence, and the figures behind it."""

    rule: str
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def detail(self) -> dict[str, Any]:
        """What the event `campaign_finished` says."""
        return {"rule": self.rule, "why": self.why, **self.figures}


def why_finished(bench: Workbench) -> Ended | None:
    """Return why no further round may start, or None if one may."""
    for rule in (_rounds, _cost, _space, _target, _no_improvement, _acquisition):
        ended = rule(bench)
        if ended is not None:
            return ended
    return None


def _rounds(bench: Workbench) -> Ended | None:
    started, limit = len(bench.history.rounds.all(bench.campaign.id)), bench.config.budget.rounds
    return Ended("rounds", f"all {limit} rounds are done", {"rounds": started}) if started >= limit else None


def _cost(bench: Workbench) -> Ended | None:
    free = bench.history.budgets.free(bench.campaign.id)
    if free is None:
        return None
    try:
        price = bench.oracle_record().unit_cost_minor
    except FlowscoutError:  # the oracle is not on this machine: whoever runs the round knows its price
        price = 1
    if price <= free:
        return None
    return Ended("cost", "the budget does not reach for another measurement", {"free_minor": free})


def _space(bench: Workbench) -> Ended | None:
    try:
        size = bench.tools.rules.size
    except FlowscoutError:  # nor is its catalogue
        return None
    if bench.history.gauges.candidates(bench.campaign.id) < size:
        return None
    known = len(inside(bench, bench.history.measurements.known_keys(bench.campaign.id)))
    return None if known < size else Ended("space", "no object of the space is left to propose", {"known": known})


def _target(bench: Workbench) -> Ended | None:
    target, objective = bench.config.stop.target, bench.config.objective
    if target is None:
        return None
    found = bench.history.queries.best(bench.campaign.id, objective.name, direction=objective.direction, k=1)
    if not found:
        return None
    best = found[0]
    reached = best.value >= target if objective.direction == "maximize" else best.value <= target
    if not reached:
        return None
    why = f"the target {target:g} is reached: {best.object!r} has {objective.name} {best.value:g}"
    return Ended("target", why, {"target": target, "best": best.value, "candidate_id": best.candidate_id})


def _no_improvement(bench: Workbench) -> Ended | None:
    wanted, objective = bench.config.stop.no_improvement, bench.config.objective
    if wanted is None:
        return None
    rounds = bench.history.gauges.measured_rounds(bench.campaign.id, wanted)
    fitted = bench.history.rounds.fit(rounds[-1]) if len(rounds) == wanted else None
    if fitted is None:
        return None
    seq = fitted.data_upto_seq
    better = bench.history.gauges.best_since(
        bench.campaign.id, objective.name, direction=objective.direction, seq=seq
    )
    if better is not False:
        return None
    why = f"no round of the last {wanted} found a better {objective.name} than was known before them"
    return Ended("no_improvement", why, {"rounds": wanted, "since_seq": seq})


def _acquisition(bench: Workbench) -> Ended | None:
    limit = bench.config.stop.acquisition_below
    rounds = bench.history.rounds.all(bench.campaign.id)
    if limit is None or not rounds or rounds[-1].state is not RoundState.COMPLETE:
        return None
    latest = rounds[-1]
    then = at_version(bench, latest.config_version_id)
    fitted, run = bench.history.rounds.fit(latest.id), bench.history.rounds.sampler(latest.id)
    batch = bench.history.rounds.proposals(latest.id, selected=True)
    values = [one.acquisition for one in batch if one.acquisition is not None]
    if fitted is None or run is None or not values:
        return None
    found = gain(then, fitted, run, max(values))
    if found is None or found >= limit:
        return None
    why = (
        f"the best of round {latest.number} promised {found:.3g} by {run.reward['acquisition']}, less than "
        f"acquisition_below: {limit:g}"
    )
    return Ended("acquisition_below", why, {"round": latest.number, "gain": found, "limit": limit})


def gain(bench: Workbench, fitted: FitRecord, run: SamplerRecord, acquisition: float) -> float | None:
    """Return what an acquisition value of a round promised, in units of the scale that is learned.

    Of `log_ei` and `q_log_ei` it is the improvement to be expected, exp(value). Of `ucb`, `q_ucb` and `thompson`
    it is how far the upper bound, or the draw, lies above the best that was known then; it may be negative. Of
    `mes` it is the value itself, in nats: what a measurement tells about the best value. None where nothing was
    known.
    """
    name = run.reward.get("acquisition")
    if name in ("log_ei", "q_log_ei"):
        return math.exp(acquisition)
    if name == "max_value_entropy":
        return acquisition
    objective, scale = bench.config.objective, bench.scale
    known = bench.history.queries.best(
        bench.campaign.id, objective.name, direction=objective.direction, k=1, upto_seq=fitted.data_upto_seq
    )
    if name is None or not known or scale.refusal(known[0].value) is not None:
        return None
    return acquisition - scale.sign * scale.value(known[0].value)
