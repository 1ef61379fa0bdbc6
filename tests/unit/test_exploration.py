"""A share of the batch outside the mode of the best: what is alike, what is barred, and what is chosen."""

from collections import Counter

import pandas as pd
import pytest
import torch

from flowscout import Campaign
from flowscout.errors import ConfigError
from flowscout.loop import pools
from flowscout.loop.config import parse_campaign
from flowscout.loop.exploration import (
    ALIKE,
    BARRED,
    EARLY_SHARES,
    elsewhere,
    explore_share,
    incumbents,
    similarity,
)
from flowscout.loop.pools import EXPLORED
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import GridSpace, SequenceSpace
from flowscout.surrogates import FrozenAcquisition

SPACE = SequenceSpace("dna", 8)
ALL_LETTERS = FrozenAcquisition("letters", is_log=False, evaluate=lambda X: X.sum(1))
REWARD = FrozenReward(ALL_LETTERS, SPACE.features, exponent=2.0, centre=1.0, scale=4.0)


def test_early_exploration_ends():
    assert [explore_share("early", number) for number in range(1, 8)] == [*EARLY_SHARES, 0.0, 0.0, 0.0]
    assert explore_share(0.25, 9) == 0.25


def test_shifted_sequences_are_alike_and_others_are_not():
    a = SPACE.parse(["ACGTTGCA"])
    found = similarity(SPACE, SPACE.parse(["ACGTTGCA", "CCGTTGCA", "AACGTTGC", "GGGGGGGG"]), a).squeeze(1)
    assert found[0] == pytest.approx(1.0)
    assert (found[1:3] > ALIKE).all()
    assert found[3] < ALIKE


def test_similarity_elsewhere_is_by_distance():
    space = GridSpace(2, 5)
    found = similarity(space, space.parse(["0,0", "0,4", "4,4"]), space.parse(["0,0"])).squeeze(1)
    assert found.tolist() == [1.0, 0.5, 0.0]


def test_incumbents_are_the_best_and_what_is_alike_to_it():
    labelled = SPACE.parse(["ACGTTGCA", "GGGGGGGG", "ACGTTGCC", "TTTTTTTT"])
    assert SPACE.decode(incumbents(SPACE, labelled)) == ["ACGTTGCA", "ACGTTGCC"]
    assert SPACE.decode(incumbents(SPACE, labelled[:1])) == ["ACGTTGCA"]


def test_the_reward_elsewhere_is_the_reward_but_for_the_mode_of_the_best():
    labelled = SPACE.parse(["ACGTTGCA", "GGGGGGGG"])
    reward, states = elsewhere(SPACE, REWARD, labelled), SPACE.parse(["ACGTTGCC", "GGGGGGGG", "TATATATA"])
    expected = REWARD(states)
    expected[0] = BARRED
    assert torch.equal(reward(states), expected)


FILE = """
campaign: exploring
space: {type: sequence, alphabet: dna, length: 8}
objectives: [{name: score, direction: maximize}]
oracle: assay:score
proposer: {type: local_search}
batch: {size: 8, explore: early}
budget: {rounds: 3}
seed: 3
"""


def test_explored_places_hold_nothing_alike_to_the_best(tmp_path):
    (tmp_path / "assay.py").write_text(
        "def score(objects): return [o.count('G') + o.count('AC') for o in objects]\n"
    )
    (tmp_path / "c.yaml").write_text(FILE)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        for _ in range(3):
            found.run_round()
        check_origins(found)


def check_origins(found):
    """Assert that only what is unlike the best so far was explored, and as much of it as the schedule says."""
    bench = found.workbench
    rounds = bench.history.rounds.all(bench.campaign.id)
    best_before, origins = None, []
    for record in rounds:
        chosen = bench.history.rounds.proposals(record.id, selected=True)
        explored = [p for p in chosen if p.origin == EXPLORED]
        origins.append(len(explored))
        if explored:
            states = SPACE.parse([p.object for p in explored])
            assert (similarity(SPACE, states, SPACE.parse([best_before])) < ALIKE).all()
        history = found.history()
        known = history[history["round"].isna() | (history["round"] <= record.number)]
        best_before = known.sort_values(["value", "object"], ascending=[False, True])["object"].iloc[0]
    assert origins == [0, 4, 4]  # nothing is known before the first round


@pytest.mark.parametrize(("explore", "n_far"), [("0.5", 60), ("0.25", 30)])
def test_explored_objects_fill_their_share_of_the_largest_pool_and_leave_the_rest(
    tmp_path, monkeypatch, explore, n_far
):
    monkeypatch.setattr(pools, "MAX_POOL", 120)  # what 20 and more for each place of a large batch meet at 3,000
    (tmp_path / "c.yaml").write_text(FILE.replace("explore: early", f"explore: {explore}"))
    (tmp_path / "assay.py").write_text("def score(objects): return [o.count('G') for o in objects]\n")
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        objects = SPACE.decode(SPACE.enumerate()[torch.arange(0, 65_536, 1_500)])
        found.tell(pd.DataFrame({"object": objects, "score": [float(o.count("G")) for o in objects]}))
        found.run_round()
        bench = found.workbench
        record = bench.history.rounds.get(bench.campaign.id, 1)
        pool = [p for p in bench.history.rounds.proposals(record.id) if p.decision != "duplicate"]
    counts = Counter(p.origin for p in pool)
    assert counts == {EXPLORED: n_far, "local_search": 120 - n_far}


def test_a_batch_is_full_where_nearly_all_that_is_left_was_explored(tmp_path):
    text = FILE.replace("length: 8", "length: 3").replace("size: 8, explore: early", "size: 20, explore: 0.25")
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "assay.py").write_text("def score(objects): return [o.count('G') for o in objects]\n")
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        for _ in range(2):
            found.run_round()
        assert [row.measured for row in found.status().rounds] == [20, 20]


@pytest.mark.parametrize("explore", ["late", "1.5", "-0.1"])
def test_a_share_that_cannot_be_is_refused(explore):
    with pytest.raises(ConfigError, match="explore"):
        parse_campaign(FILE.replace("explore: early", f"explore: {explore}"), name="campaign.yaml")
