"""A campaign without a scheduler: ask, tell, run rounds, and where it ends."""

from itertools import product
from pathlib import Path
from textwrap import dedent

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.errors import ConfigError, LabelError, ObjectError, StateError

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 3}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 3}
device: cpu
"""
ASSAY = "def score(objects): return [float(o.count('A')) for o in objects]\n"
UNCALLED = "def score(objects): raise AssertionError('the oracle was called')\n"


@pytest.fixture
def campaign(tmp_path):
    """Return how to open a campaign: the pairs say what its file says differently."""
    opened: list[Campaign] = []

    def start(*changes: tuple[str, str], assay: str = ASSAY, folder: Path = tmp_path) -> Campaign:
        text = CAMPAIGN
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / "assay.py").write_text(dedent(assay))
        (folder / "c.yaml").write_text(text)
        opened.append(Campaign.from_yaml(folder / "c.yaml"))
        return opened[-1]

    yield start
    for found in opened:
        found.close()


def run_all(found: Campaign) -> int:
    rounds = 0
    while (progress := found.run_round()) is not None:
        assert progress.complete
        rounds += 1
    return rounds


def test_campaign_ends_when_its_rounds_are_done(campaign):
    found = campaign()
    assert run_all(found) == 3
    status = found.status()
    assert (status.state, status.candidates_measured) == ("finished", 12)
    assert found.history()["object"].is_unique


def test_raised_budget_reopens_a_finished_campaign(campaign):
    assert run_all(campaign()) == 3
    found = campaign(("rounds: 3", "rounds: 4"))
    assert run_all(found) == 1
    assert [row.number for row in found.status().rounds] == [1, 2, 3, 4]


def test_space_smaller_than_the_budget_ends_with_every_object_measured(campaign):
    found = campaign(("alphabet: dna, length: 3", "alphabet: dna, length: 2"), ("size: 4", "size: 7"))
    assert run_all(found) == 3
    assert sorted(found.history()["object"]) == sorted(map("".join, product("ACGT", repeat=2)))
    assert [row.measured for row in found.status().rounds] == [7, 7, 2]
    assert found.status().state == "finished"


def test_both_strands_of_a_small_space_are_measured_once(campaign):
    small = ("alphabet: dna, length: 3", "alphabet: dna, length: 2, strand: double")
    found = campaign(small, ("size: 4", "size: 5"))
    assert run_all(found) == 2
    assert len(found.history()) == 10  # of 16 dinucleotides: 4 are their own reverse complements, 12 make 6 pairs


def test_what_is_to_be_small_becomes_small(campaign):
    found = campaign(("maximize", "minimize"), ("rounds: 3", "rounds: 5"))
    run_all(found)
    best = found.best(3)
    assert best["value"].is_monotonic_increasing
    assert best["value"].iloc[0] == 0.0
    rounds = found.status().rounds
    assert [row.best for row in rounds] == sorted((row.best for row in rounds), reverse=True)
    assert rounds[0].batch_best == min(found.history(round=1)["value"])
    # 27 of the 64 objects hold no A: learning finds more of them than the 8 that chance would.
    assert (found.history()["value"] == 0).sum() > 8


def test_money_stops_dispatch_and_what_it_did_not_reach_is_cancelled(campaign):
    priced = ("oracle: assay:score", "oracle: {type: callable, function: 'assay:score', cost_usd: 2}")
    found = campaign(priced, ("rounds: 3", "rounds: 3, cost: 13"))
    assert run_all(found) == 2
    status = found.status()
    assert status.evaluations == {"done": 6, "cancelled": 2}
    assert (status.spent_minor, status.reserved_minor, status.limit_minor) == (1200, 0, 1300)
    assert (status.state, status.rounds[1].message) == ("finished", "without a value: 2 cancelled")


def test_budget_below_one_call_starts_no_round(campaign):
    priced = ("oracle: assay:score", "oracle: {type: callable, function: 'assay:score', cost_usd: 2}")
    found = campaign(priced, ("rounds: 3", "rounds: 3, cost: 1"))
    assert run_all(found) == 0
    assert found.status().rounds == ()


def test_asking_and_telling_calls_no_oracle(campaign):
    found = campaign(assay=UNCALLED)
    for number in (1, 2, 3):
        batch = found.ask()
        assert list(batch.columns) == ["candidate_id", "object", "mean", "sd", "acquisition"]
        assert found.ask()["object"].tolist() == batch["object"].tolist()
        told = found.tell(pd.DataFrame({"object": batch["object"], "y": range(4)}), source=f"plate {number}")
        assert (told.added, told.unchanged) == (4, 0)
        assert [row.state for row in found.status().rounds] == ["complete"] * number
    assert found.history()["round"].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    with pytest.raises(StateError, match="is finished: all 3 rounds are done"):
        found.ask()


def test_batch_is_told_in_any_order_and_in_parts(campaign):
    found = campaign(assay=UNCALLED)
    objects = found.ask()["object"].tolist()
    found.tell(pd.DataFrame({"object": objects[:1:-1], "y": [1.0, 2.0]}))
    assert found.ask()["object"].tolist() == objects[:2]
    found.tell(pd.DataFrame({"object": objects[:2], "y": [3.0, 4.0]}))
    assert found.status().rounds[0].state == "complete"


@pytest.mark.parametrize("n", [0, 3_001])
def test_batch_that_cannot_be_is_refused_before_anything_is_written(campaign, n):
    found = campaign(assay=UNCALLED)
    with pytest.raises(ConfigError, match=f"a batch of {n} was asked for, expected 1 to 3,000"):
        found.ask(n)
    assert found.status().rounds == ()


def test_asking_for_more_than_the_space_holds_returns_all_of_it(campaign):
    found = campaign(("length: 3", "length: 1"), ("size: 4", "size: 1"), assay=UNCALLED)
    assert sorted(found.ask(100)["object"]) == ["A", "C", "G", "T"]


def test_result_that_was_not_asked_for_is_learned_from(campaign):
    found = campaign()
    found.tell(pd.DataFrame({"sequence": ["AAA", "CCC", "acg"], "y": [3.0, 0.0, 1.0]}), source="eln")
    batch = found.ask()
    assert not {"AAA", "CCC", "ACG"} & set(batch["object"])
    assert batch["mean"].notna().all()
    assert found.best(1)["object"].tolist() == ["AAA"]
    assert found.best(1)["round"].isna().all()


def test_told_result_is_never_measured_again(campaign):
    found = campaign(("length: 3", "length: 1"), ("size: 4", "size: 2"))
    found.tell(pd.DataFrame({"object": ["A", "C"], "y": [5.0, 6.0]}))
    run_all(found)
    assert sorted(found.history()["object"]) == ["A", "C", "G", "T"]


def test_table_with_one_wrong_row_is_told_not_at_all(campaign):
    found = campaign()
    with pytest.raises(ObjectError, match="'AXA' has 'X' at position 2"):
        found.tell(pd.DataFrame({"object": ["AAA", "AXA"], "y": [1.0, 2.0]}))
    with pytest.raises(LabelError, match="row 2: y is 'inf'"):
        found.tell(pd.DataFrame({"object": ["AAA", "ACA"], "y": [1.0, float("inf")]}))
    assert found.status().measurements == 0


def test_oracle_that_breaks_its_contract_is_not_called_again(campaign):
    assay = """\
        CALLS = []

        def score(objects):
            CALLS.append(objects)
            assert len(CALLS) == 1, "called again"
            return {text: 1.0 for text in objects}
        """
    found = campaign(assay=assay)
    with pytest.raises(Exception, match="returned a dict, expected a list"):
        found.run_round()
    assert found.status().evaluations == {"failed": 4}


def test_object_that_cannot_be_measured_fails_alone(campaign):
    assay = "def score(objects): return [float('nan'), *(1.0 for _ in objects[1:])]\n"
    found = campaign(("rounds: 3", "rounds: 1"), assay=assay)
    assert run_all(found) == 1
    status = found.status()
    assert status.evaluations == {"done": 3, "failed": 1}
    assert status.rounds[0].message == "without a value: 1 failed"
