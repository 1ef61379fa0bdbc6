"""The reward is affine in the acquisition, frozen, and the same for the same object."""

import math

import pytest
import torch

from flowscout.errors import NonFiniteError
from flowscout.loop.rewards import TEMPERING, FrozenReward, freeze_reward
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import ExactGP, FrozenAcquisition, ucb

SPACE = SequenceSpace("dna", 6, strand="double")


def fitted() -> tuple[ExactGP, object]:
    labelled = SPACE.enumerate()[torch.arange(0, 4096, 97)]
    X = SPACE.features(labelled)
    gp = ExactGP(symmetry=SPACE.symmetry)
    gp.fit(X, (X == 2).sum(dim=1, keepdim=True).double())
    return gp, labelled


def reward() -> FrozenReward:
    gp, labelled = fitted()
    reference = SPACE.enumerate()[torch.arange(0, 4096, 5)]
    size = math.log(SPACE.size)
    return freeze_reward(ucb(gp, 1.0), SPACE.features, reference=reference, known=labelled, log_size=size)


def test_an_object_has_one_reward_alone_and_among_others_and_on_either_strand() -> None:
    frozen, objects = reward(), ["ACGTTG", "GGGGGG", "AAACCC"]
    together = frozen(SPACE.parse(objects))
    alone = torch.cat([frozen(SPACE.parse([text])) for text in objects])
    other = frozen(SPACE.parse([SPACE.rules.reverse_complement(text) for text in objects]))
    # 1e-9: sums over labels are taken in another order for another number of rows.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(together, other, rtol=0, atol=1e-9)


def test_the_reward_is_affine_in_the_acquisition_with_nothing_clamped() -> None:
    frozen = reward()
    values = torch.tensor([-1e3, frozen.centre, frozen.centre + frozen.scale, 1e3], dtype=torch.float64)
    expected = frozen.exponent * (values - frozen.centre) / frozen.scale
    torch.testing.assert_close(frozen.of_values(values), expected)
    assert frozen.with_exponent(2.0).of_values(values)[2].item() == pytest.approx(2.0)


def test_the_best_known_stand_the_log_of_the_space_above_the_median() -> None:
    frozen = reward()
    _, labelled = fitted()
    best = frozen(labelled).sort(descending=True).values[: len(labelled) // 4].mean().item()
    assert best <= TEMPERING * math.log(SPACE.size) + 1e-6  # less only where the reference holds better ones


def test_an_acquisition_that_is_not_finite_is_refused_by_name() -> None:
    broken = FrozenAcquisition("broken", False, lambda X: torch.full((len(X),), math.nan, dtype=torch.float64))
    states = SPACE.enumerate()[torch.arange(10)]
    with pytest.raises(NonFiniteError, match="broken"):
        freeze_reward(broken, SPACE.features, reference=states, known=states, log_size=1.0)
