"""The gradient that is written by hand against autograd's, and training in bfloat16 against the exact law."""

import pytest
import torch

from flowscout.loop.gflownet import (
    Behaviour,
    Trainer,
    TrainerSettings,
    exact_law,
    log_z_error,
    target_law,
    total_variation,
)
from flowscout.loop.gflownet.by_hand import balance_by_hand, can_balance_by_hand
from flowscout.loop.gflownet.network import Mlp, linear
from flowscout.loop.gflownet.policy import chosen_log_softmax, log_softmax, masked, masked_log_softmax, softmax
from flowscout.loop.spaces import DagSpace, GridSpace, SequenceSpace, SubsetSpace

SPACES = [
    SequenceSpace("dna", 5),
    SequenceSpace("dna", 4, min_length=1),
    SequenceSpace("dna", 4, ends="both"),
    SequenceSpace("dna", 5, wild_type="ACGTA", max_mutations=2),
    GridSpace(2, 5),
    SubsetSpace(6, conflicts=[("0", "1")]),
    DagSpace(3),
]


def log_reward_of(space):
    """Return a quadratic form of the encoding with a standard deviation of 2."""
    generator = torch.Generator().manual_seed(0)
    linear_part = torch.randn(space.encoding_dim, generator=generator)
    pairs = torch.randn(space.encoding_dim, space.encoding_dim, generator=generator)

    def raw(state):
        encoding = space.encode(state)
        return encoding @ linear_part + ((encoding @ pairs) * encoding).sum(1)

    scale = 2 / raw(space.enumerate()).std()
    return lambda state: raw(state) * scale


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("replay", [0.0, 0.5])
def test_gradient_by_hand_is_that_of_autograd(space, replay):
    settings = TrainerSettings(batch_size=24, behaviour=Behaviour(replay=replay), learning_rate=1e-2)
    trainer = Trainer(space, log_reward_of(space), settings=settings)
    trainer.fit(12)
    assert can_balance_by_hand(trainer.objective, trainer.policy)
    parameters = list(trainer.policy.parameters())
    for batch in trainer._explorer.sample(trainer.steps):
        for p in parameters:
            p.grad.zero_()
        expected = trainer.objective(space, trainer.policy, batch)
        expected.losses.mean().backward()
        by_autograd = [p.grad.clone() for p in parameters]
        for p in parameters:
            p.grad.fill_(7.0)  # it must be overwritten
        found = balance_by_hand(trainer.policy, batch)
        torch.testing.assert_close(found.losses, expected.losses.detach())
        torch.testing.assert_close(found.log_z_samples, expected.log_z_samples)
        for p, value in zip(parameters, by_autograd, strict=True):
            # 1e-5: float32 sums of some hundred terms in another order.
            torch.testing.assert_close(p.grad, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "detailed_balance"},
        {"loss": "log_partition_variance"},
        {"residual": "huber"},
        {"backward_policy": "learned"},
    ],
)
def test_what_it_does_not_compute_is_left_to_autograd(changed):
    space = GridSpace(2, 4)
    trainer = Trainer(space, log_reward_of(space), settings=TrainerSettings(**changed))
    assert not can_balance_by_hand(trainer.objective, trainer.policy)


def test_a_trunk_of_the_users_own_is_left_to_autograd():
    space = GridSpace(2, 4)
    layer = linear(space.encoding_dim, 128, torch.Generator().manual_seed(0))
    trainer = Trainer(space, log_reward_of(space), trunk=torch.nn.Sequential(layer, torch.nn.Tanh()))
    assert not can_balance_by_hand(trainer.objective, trainer.policy)
    trainer.fit(3)


def test_chosen_log_softmax_and_its_gradient_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = torch.rand(7, 5, generator=generator) < 0.6
    actions = torch.arange(7) % 5
    mask[torch.arange(7), actions] = True
    chosen = chosen_log_softmax(logits, mask, actions)
    whole = masked_log_softmax(logits, mask).gather(1, actions.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, whole)
    weight = torch.randn(7, dtype=torch.float64, generator=generator)
    for mine, other in zip(
        torch.autograd.grad(chosen @ weight, logits), torch.autograd.grad(whole @ weight, logits), strict=True
    ):
        torch.testing.assert_close(mine, other)


def passes(mlp, head, x, weight):
    """Return what a pass says and the gradients of its weighted sum."""
    [out] = mlp.with_heads(x, [head])
    parameters = [*mlp.weights, head.weight, head.bias]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), parameters)]


def test_large_passes_alone_are_in_bfloat16_and_their_gradients_near_those_in_float32():
    before = torch.get_float32_matmul_precision()
    for rows, nears in ((8, (0.0, 0.0)), (600, (0.01, 0.1))):
        mlps = [Mlp([40, 256, 256], torch.Generator().manual_seed(0), rounds=rounds) for rounds in (True, False)]
        generator = torch.Generator().manual_seed(1)
        head = linear(256, 7, generator)
        x, weight = (torch.randn(rows, width, generator=generator) for width in (40, 7))
        rounded, exact = (passes(mlp, head, x, weight) for mlp in mlps)
        for number, (mine, other) in enumerate(zip(rounded, exact, strict=True)):
            assert mine.dtype == other.dtype == torch.float32
            assert mine.shape == other.shape
            # An output errs by the rounding of its factors, 2^-9 each. A gradient by more: rounding turns some
            # sums' signs, a share of about 2^-9 in each layer, and a share s turned errs by the root of s.
            near = nears[min(number, 1)]
            error = float((mine - other).norm() / other.norm())
            assert error <= near
            assert (error > 0) == (near > 0)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 3_000])
@pytest.mark.parametrize("width", [5, 40])
def test_masks_and_softmax_are_those_of_torch_at_every_size(rows, width, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, width, generator=generator, dtype=dtype) * 5
    mask = torch.rand(rows, width, generator=generator) < 0.5
    mask[:, 0] |= ~mask.any(1)
    expected = torch.where(mask, logits, -torch.inf)
    assert torch.equal(masked(logits, mask), expected)
    torch.testing.assert_close(log_softmax(expected), expected.log_softmax(1))
    torch.testing.assert_close(softmax(expected), expected.softmax(1))


def test_the_reward_computes_in_its_callers_precision():
    seen = set()

    def log_reward(state):
        seen.add((torch.get_float32_matmul_precision(), torch.get_num_threads()))
        return state.cells[:, 0].float()

    settings = TrainerSettings(precision="bfloat16", batch_size=8)
    Trainer(GridSpace(2, 3), log_reward, settings=settings).fit(2)
    assert seen == {(torch.get_float32_matmul_precision(), torch.get_num_threads())}


@pytest.mark.parametrize("space", [SequenceSpace("dna", 4), GridSpace(2, 8)], ids=repr)
def test_training_in_bfloat16_reaches_the_exact_law(space):
    log_reward = log_reward_of(space)
    settings = TrainerSettings(
        batch_size=128,
        width=256,
        precision="bfloat16",
        learning_rate=2e-3,
        final_learning_rate=2e-4,
        learning_rate_steps=400,
    )
    trainer = Trainer(space, log_reward, settings=settings)
    untrained = exact_law(space, trainer.policy)
    target = target_law(space, log_reward, untrained.states)
    trainer.fit(400)
    law = exact_law(space, trainer.policy)
    assert total_variation(untrained, target) > 0.3
    assert total_variation(law, target) < 0.05  # the bound that float32 is held to
    assert log_z_error(law, target) < 0.05
