"""Losses as pure functions of log-probabilities and log-rewards.

Networks, spaces and optimisers do not belong here.
"""

from torch import Tensor


def trajectory_balance(log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, log_z: Tensor) -> Tensor:
    """Return each trajectory's squared trajectory-balance residual, `b`.

    `log_pf` and `log_pb` are `b x t`, zero where padded; `log_reward` is `b`; `log_z` is a scalar.
    Source: Malkin et al. 2022, arXiv:2201.13259, eq. 14.
    """
    return (log_z - log_z_samples(log_pf, log_pb, log_reward)).square()


def log_partition_variance(log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """Return each trajectory's squared deviation from the batch's mean estimate of log Z, `b`.

    It needs no `log_z`; its mean is the variance of the batch. Shapes as in `trajectory_balance`.
    Source: Zhang et al. 2023, arXiv:2302.05446, section 3.2; after Richter et al. 2020, arXiv:2010.10436.
    """
    samples = log_z_samples(log_pf, log_pb, log_reward)
    return (samples - samples.mean()).square()


def log_z_samples(log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """Return each trajectory's estimate of log Z, `b`: all are equal once the policy is exact."""
    return log_reward + log_pb.sum(-1) - log_pf.sum(-1)
