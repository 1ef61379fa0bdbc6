"""What one step of a walk draws: the softmax of the legal logits, in narrow rows and in wide ones."""

import pytest
import torch

from flowscout.loop.gflownet.sampler import WIDE, _Noise

N = 200_000


def frequencies(logits, mask, **noise):
    """Return how often each action is drawn from one row of logits, over `N` rows."""
    noise = _Noise(torch.Generator().manual_seed(0), **{"epsilon": 0.0, "temperature": 1.0, **noise})
    actions = noise.choose(logits.expand(N, -1), mask.expand(N, -1))
    return torch.bincount(actions, minlength=len(logits)).double() / N


@pytest.mark.parametrize("width", [4, WIDE - 1, WIDE, 101])
@pytest.mark.parametrize(("epsilon", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0)])
def test_a_step_draws_from_the_softmax_of_the_legal_logits(width, epsilon, temperature):
    generator = torch.Generator().manual_seed(1)
    logits, mask = torch.randn(width, generator=generator) * 2, torch.rand(width, generator=generator) < 0.6
    mask[0], mask[-1], mask[1:3] = False, False, True
    found = frequencies(logits, mask, epsilon=epsilon, temperature=temperature)
    legal = torch.where(mask, logits.double(), -torch.inf)
    expected = (1 - epsilon) * (legal / temperature).softmax(0) + epsilon * mask.double() / mask.sum()
    assert found[~mask].sum() == 0
    # Six standard errors of a share of N draws.
    assert ((found - expected).abs() <= 6 * (expected * (1 - expected) / N).sqrt() + 1e-12).all()


@pytest.mark.parametrize("width", [4, WIDE])
def test_the_only_legal_action_is_taken_however_unlikely(width):
    logits, mask = torch.zeros(width), torch.arange(width) == width - 2
    logits[width - 2] = -200.0  # whose exponential is 0 in float32
    assert frequencies(logits, mask)[width - 2] == 1
