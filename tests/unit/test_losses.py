"""Losses against their definitions."""

import torch

from flowscout.loop.gflownet.losses import log_partition_variance, log_z_samples, trajectory_balance


def random_batch(*, b: int = 5, t: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    log_pf, log_pb = -torch.rand(2, b, t, dtype=torch.float64, generator=generator)
    return log_pf, log_pb, torch.randn(b, dtype=torch.float64, generator=generator)


def test_trajectory_balance_is_the_squared_log_ratio_of_the_two_flows():
    log_pf, log_pb, log_reward = random_batch()
    log_z = torch.tensor(0.7, dtype=torch.float64)
    forward = log_z.exp() * log_pf.exp().prod(1)
    backward = log_reward.exp() * log_pb.exp().prod(1)
    expected = (forward / backward).log().square()
    torch.testing.assert_close(trajectory_balance(log_pf, log_pb, log_reward, log_z), expected)


def test_both_losses_are_zero_where_the_flows_agree():
    log_pf, log_pb, _ = random_batch()
    log_z = torch.tensor(-1.3, dtype=torch.float64)
    log_reward = log_z + log_pf.sum(1) - log_pb.sum(1)
    assert trajectory_balance(log_pf, log_pb, log_reward, log_z).max() < 1e-24  # float64 rounding, squared
    assert log_partition_variance(log_pf, log_pb, log_reward).max() < 1e-24


def test_log_partition_variance_is_trajectory_balance_at_the_best_log_z():
    log_pf, log_pb, log_reward = random_batch()
    log_z = log_z_samples(log_pf, log_pb, log_reward).mean()
    balance = trajectory_balance(log_pf, log_pb, log_reward, log_z)
    torch.testing.assert_close(log_partition_variance(log_pf, log_pb, log_reward), balance)


def test_log_partition_variance_ignores_the_scale_of_the_reward():
    log_pf, log_pb, log_reward = random_batch()
    shifted = log_partition_variance(log_pf, log_pb, log_reward + 100)
    torch.testing.assert_close(shifted, log_partition_variance(log_pf, log_pb, log_reward))


def test_zero_padding_changes_neither_loss():
    log_pf, log_pb, log_reward = random_batch()
    log_z = torch.tensor(0.2, dtype=torch.float64)
    padded = [torch.nn.functional.pad(part, (0, 4)) for part in (log_pf, log_pb)]
    torch.testing.assert_close(
        trajectory_balance(*padded, log_reward, log_z), trajectory_balance(log_pf, log_pb, log_reward, log_z)
    )
    torch.testing.assert_close(
        log_partition_variance(*padded, log_reward), log_partition_variance(log_pf, log_pb, log_reward)
    )


def test_gradients_of_both_losses_are_those_of_finite_differences():
    log_pf, log_pb, log_reward = random_batch()
    log_pf.requires_grad_()
    log_z = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, z: trajectory_balance(f, log_pb, log_reward, z), (log_pf, log_z))
    assert torch.autograd.gradcheck(lambda f: log_partition_variance(f, log_pb, log_reward), (log_pf,))
