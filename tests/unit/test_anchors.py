"""Anchors: a policy learns near the data what its own samples would never show it."""

import math
from dataclasses import replace

import pytest
import torch

from flowscout.errors import ConfigError
from flowscout.loop.proposers import GFlowNetProposer, Problem, uniform_states
from flowscout.loop.proposers.anchors import (
    N_CHILDREN,
    N_ELITES,
    key_codes,
    make_anchors,
    most_edits,
)
from flowscout.loop.proposers.gflownet import ANCHORS
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import FrozenAcquisition

CPU = torch.device("cpu")
SPACE = SequenceSpace("dna", 14)
PEAK = "ACGTTGCAACGTAC"
EXPONENT = 4.8


def needle(space: SequenceSpace = SPACE, peak: str = PEAK) -> Problem:
    """Reward closeness to a peak and nothing 4 letters from it; labelled are objects around it and at random."""
    target = space.parse([peak])

    def near(X: torch.Tensor) -> torch.Tensor:
        return (4.0 - (target.tokens.double() != X).sum(dim=1)).clamp_min(0)

    generator = torch.Generator().manual_seed(0)
    around = target[torch.zeros(12, dtype=torch.int64)]
    for _ in range(3):
        around = space.mutate(around, generator)
    labelled = type(target).cat([around, uniform_states(space, 20, seed=1, device=CPU)])
    reward = FrozenReward(FrozenAcquisition("near", False, near), space.features, EXPONENT, 0.0, 1.0)
    order = reward(labelled).argsort(descending=True, stable=True)
    return Problem(space, reward, labelled[order], CPU)


def test_a_reward_that_is_flat_away_from_the_data_is_learned_near_it_with_anchors_only() -> None:
    made = needle()
    spread = {}
    for share in (0.0, 0.5):
        proposer = GFlowNetProposer(150, adjust=False, anchors=share)
        trained = proposer.train(made, seed=0)
        spread[share] = made.reward(proposer.draw(made, trained.tensors, 1_000, seed=1).states)
    # Of 4^14 objects 0.004 % are within 3 letters of the peak: a policy of its own samples hardly meets one.
    assert float(spread[0.0].std()) < 0.01
    assert float(spread[0.5].std()) > 1.0
    near = sum(math.comb(14, k) * 3**k * math.exp(EXPONENT * (4 - k)) for k in range(4))
    far = 4**14 - sum(math.comb(14, k) * 3**k for k in range(4))
    # Anchors change what is seen, not the law: 53%. 0.06: 1,000 draws have a standard deviation of 0.016.
    assert float((spread[0.5] > 0).double().mean()) == pytest.approx(near / (near + far), abs=0.06)


def test_samples_that_were_anchors_say_so_and_others_do_not() -> None:
    made, proposer = needle(), GFlowNetProposer(60, adjust=False, anchors=0.5)
    trained = proposer.train(made, seed=0)
    samples = proposer.draw(made, trained.tensors, 500, seed=1)
    anchors = {SPACE.key(text) for text in SPACE.decode(make_anchors(made, seed=0))}
    assert trained.diagnostics["n_anchors"] == len(anchors)
    expected = tuple(
        "anchor" if SPACE.key(text) in anchors else "gflownet" for text in SPACE.decode(samples.states)
    )
    assert samples.origins == expected
    assert set(expected) == {"anchor", "gflownet"}


def test_anchors_are_elites_edits_and_children_each_once() -> None:
    made = needle()
    anchors = make_anchors(made, seed=0)
    texts = SPACE.decode(anchors)
    assert len(texts) == len(set(texts))
    assert texts[: len(made.labelled)] == SPACE.decode(made.labelled[:N_ELITES])
    assert PEAK in texts  # found by the evolution: no labelled object is nearer than one letter
    assert len(texts) > N_CHILDREN
    assert texts == SPACE.decode(make_anchors(made, seed=0)) != SPACE.decode(make_anchors(made, seed=1))


def test_the_less_the_surrogate_is_sure_the_fewer_edits_are_made() -> None:
    space = SequenceSpace("dna", 40)
    made = needle(space, PEAK * 2 + PEAK[:12])
    elites = made.labelled[:5]
    sd = torch.tensor([1.0, 1.25, 1.5, 2.0, 9.0], dtype=torch.float64)
    # 15% of 40 letters are 6; the others in a straight line down to one at twice the least sd.
    assert most_edits(replace(made, sd=lambda _: sd), elites).tolist() == [6, 5, 4, 1, 1]
    assert most_edits(replace(made, sd=lambda _: 0 * sd), elites).tolist() == [6] * 5
    assert most_edits(made, elites).tolist() == [6] * 5


@pytest.mark.parametrize(
    ("length", "share", "loss"), [(11, 0.0, "trajectory_balance"), (12, ANCHORS, "log_partition_variance")]
)
def test_large_spaces_are_anchored_by_default_and_smaller_ones_are_not(
    length: int, share: float, loss: str
) -> None:
    made = needle(SequenceSpace("dna", length), (PEAK * 2)[:length])
    trained = GFlowNetProposer(1, adjust=share > 0).train(made, seed=0)
    assert trained.params["anchors"] == trained.params["behaviour"]["data"] == share
    assert (trained.diagnostics["n_anchors"] > 0) == (share > 0)
    assert trained.params["loss"] == loss
    assert trained.reward == made.reward  # with anchors the exponent stays though it may be adjusted


def test_a_warm_start_from_an_anchored_policy_serves_one_without_anchors() -> None:
    made = needle()
    first = GFlowNetProposer(2, adjust=False, anchors=0.5).train(made, seed=0)
    second = GFlowNetProposer(2, adjust=False, anchors=0.0).train(made, seed=1, warm_start=first.tensors)
    assert second.params["warm_start"] is True
    assert "anchors" not in second.tensors


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"is {share}, expected a number from 0 to 1\. Choose"):
        GFlowNetProposer(anchors=share)


def test_codes_of_keys_are_equal_exactly_for_equal_keys() -> None:
    space = SequenceSpace("dna", 5, strand="double")
    states = space.enumerate()
    codes = key_codes(space, states)
    assert torch.equal(codes, key_codes(space, space.image(states)))
    assert len(codes.unique()) == space.size
