"""Stopping rules: each reads the history alone, ends the campaign by itself, and says why."""

import math

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.db import RoundState
from flowscout.errors import StateError
from flowscout.loop import stages
from flowscout.loop.gates import look
from flowscout.loop.stopping import gain, why_finished
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 3}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
surrogate: {type: linear}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 9}
device: cpu
"""


@pytest.fixture
def campaign(tmp_path):
    def start(rules: str = "", **changes: str) -> Campaign:
        text = CAMPAIGN + (f"stop: {rules}\n" if rules else "")
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / "c.yaml").write_text(text)
        found = Campaign.from_yaml(tmp_path / "c.yaml")
        opened.append(found)
        return found

    opened: list[Campaign] = []
    yield start
    for found in opened:
        found.close()


def round_of(found: Campaign, *values: float) -> None:
    batch = found.ask()
    found.tell(pd.DataFrame({"object": batch["object"], "y": values}))


def ended(found: Campaign) -> str | None:
    done = why_finished(found.workbench)
    return None if done is None else done.rule


def finish(found: Campaign) -> dict[str, object]:
    """Let the campaign find that it is finished; return what the log says."""
    with pytest.raises(StateError, match="is finished: "):
        found.ask()
    assert found.status().state == "finished"
    [*_, detail] = found.events(kind="campaign_finished")["detail"]
    return dict(detail)


def test_a_target_that_is_reached_ends_the_campaign_and_says_by_what(campaign):
    found = campaign("{target: 5}")
    assert ended(found) is None
    round_of(found, 4.9, 1.0)
    assert ended(found) is None
    round_of(found, 5.0, 1.0)
    assert (look(found.workbench).open, look(found.workbench).kind) == (False, "finished")
    detail = finish(found)
    assert (detail["rule"], detail["target"], detail["best"]) == ("target", 5, 5.0)
    assert "the target 5 is reached" in str(detail["why"])
    assert len(found.events(kind="campaign_finished")) == 1


def test_a_target_of_small_values_is_reached_from_above(campaign):
    found = campaign("{target: -2}", maximize="minimize")
    round_of(found, -1.0, 3.0)
    assert ended(found) is None
    round_of(found, -2.5, 3.0)
    assert ended(found) == "target"


def test_another_target_or_a_corrected_value_reopens_the_campaign(campaign):
    found = campaign("{target: 5}")
    round_of(found, 5.5, 1.0)
    finish(found)
    again = campaign("{target: 6}")
    assert ended(again) is None
    assert len(again.ask()) == 2
    assert again.status().state == "active"
    back = campaign("{target: 5}")
    assert ended(back) == "target"
    best = back.best(1)["object"][0]
    back.retract(best, reason="wrong plate")
    assert ended(back) is None


def test_rounds_without_a_new_best_end_the_campaign(campaign):
    found = campaign("{no_improvement: 2}")
    round_of(found, 1.0, 2.0)
    round_of(found, 3.0, 0.0)
    round_of(found, 3.0, 1.0)  # level is not better
    assert ended(found) is None
    round_of(found, 2.0, 1.0)
    assert ended(found) == "no_improvement"
    detail = finish(found)
    assert (detail["rounds"], detail["since_seq"]) == (2, 4)
    assert "no round of the last 2 found a better y" in str(detail["why"])


def test_a_late_result_of_an_earlier_round_is_an_improvement(campaign):
    found = campaign("{no_improvement: 1}")
    first = found.ask()
    found.tell(pd.DataFrame({"object": first["object"][:1], "y": [1.0]}))
    with hold_campaign(found.workbench) as bench:
        number = stages.plan(bench, ahead=True)
        assert number == 2
        for stage in (stages.fit, stages.train, stages.propose, stages.hand_over):
            stage(bench, number)
    second = found.ask()
    second = second[~second["object"].isin(first["object"])]
    found.tell(pd.DataFrame({"object": second["object"], "y": [0.5, 0.5]}))
    assert ended(found) == "no_improvement"
    assert look(found.workbench).kind == "results"  # it ends when the first round is over
    found.tell(pd.DataFrame({"object": first["object"][1:], "y": [9.0]}))
    assert ended(found) is None


def test_a_larger_budget_reopens_a_campaign(campaign):
    found = campaign(**{"rounds: 9": "rounds: 1"})
    round_of(found, 1.0, 2.0)
    assert finish(found)["rule"] == "rounds"
    assert look(found.workbench).kind == "budget"
    with pytest.raises(StateError, match="is finished, expected one that is under way"):
        found.pause()
    again = campaign(**{"rounds: 9": "rounds: 2"})
    assert look(again.workbench).kind == "due"
    assert len(again.ask()) == 2
    assert found.status().state == "active"


def test_money_that_does_not_reach_ends_the_campaign(campaign):
    costs = {"{type: lab}": "{type: lab, cost_usd: 10}", "rounds: 9": "rounds: 9, cost: 25"}
    found = campaign(**costs)
    round_of(found, 1.0, 2.0)
    assert finish(found) == {
        "rule": "cost", "why": "the budget does not reach for another measurement", "free_minor": 500,
    }  # fmt: skip
    found.set_budget(45, reason="a grant")
    assert len(found.ask()) == 2


def test_a_space_that_is_used_up_ends_the_campaign(campaign):
    found = campaign(**{"length: 3": "length: 1"})
    round_of(found, 1.0, 2.0)
    assert ended(found) is None
    round_of(found, 1.0, 2.0)
    assert finish(found) == {"rule": "space", "why": "no object of the space is left to propose", "known": 4}
    assert look(found.workbench).kind == "budget"


ACQUISITIONS = ["ucb", "log_ei", "q_log_ei", "q_ucb", "mes", "thompson"]


@pytest.mark.parametrize("kind", ACQUISITIONS)
def test_what_a_batch_promised_is_in_units_of_what_is_learned(campaign, kind):
    text = {"{type: random}": "{type: exhaustive}", "batch:": f"acquisition: {{type: {kind}}}\nbatch:"}
    found = campaign(**text)
    for values in ((1.0, 2.0), (3.0, 4.0), (0.0, 5.0)):
        round_of(found, *values)
    assert ended(found) is None
    bench = found.workbench
    record = bench.history.rounds.get(bench.campaign.id, 3)
    assert record.state is RoundState.COMPLETE
    batch = bench.history.rounds.proposals(record.id, selected=True)
    best = max(one.acquisition for one in batch)
    fitted, run = bench.history.rounds.fit(record.id), bench.history.rounds.sampler(record.id)
    known = 4.0  # the best of the first two rounds, not the 5 of the batch itself
    expected = {"log_ei": math.exp(best), "q_log_ei": math.exp(best), "mes": best}.get(kind, best - known)
    assert gain(bench, fitted, run, best) == pytest.approx(expected, abs=1e-12)  # sums in another order
    if kind == "ucb":
        highest = max(one.mean + bench.config.acquisition.kappa * one.sd for one in batch)
        assert expected == pytest.approx(highest - known, rel=1e-6)  # means are stored in float64, sd as a root
    later = campaign("{acquisition_below: 1.0e9}", **text)
    detail = finish(later)
    assert (detail["rule"], detail["round"], detail["limit"]) == ("acquisition_below", 3, 1e9)
    assert detail["gain"] == pytest.approx(expected, abs=1e-12)


def test_a_promise_is_on_the_scale_that_is_learned(campaign):
    text = {
        "direction: maximize": "direction: minimize, transform: log10",
        "{type: random}": "{type: exhaustive}",
    }
    found = campaign(**text)
    for values in ((100.0, 1000.0), (10.0, 50.0), (20.0, 30.0)):
        round_of(found, *values)
    bench = found.workbench
    record = bench.history.rounds.get(bench.campaign.id, 3)
    batch = bench.history.rounds.proposals(record.id, selected=True)
    fitted, run = bench.history.rounds.fit(record.id), bench.history.rounds.sampler(record.id)
    best = max(one.acquisition for one in batch)
    # The loop maximises -log10(y): the best that was known is 10, so -1.
    assert gain(bench, fitted, run, best) == pytest.approx(best + 1.0, abs=1e-12)


def test_without_a_fit_nothing_was_promised(campaign):
    found = campaign("{acquisition_below: 1.0e9}")
    round_of(found, 1.0, 2.0)
    assert ended(found) is None
