from itertools import combinations
from math import pi, sqrt

import pytest
import torch
from torch import Generator
from wrapped_gp import fitted_gp, points

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates.batch_acquisition import q_log_ei, q_ucb
from flowscout.surrogates.greedy import dpp_batch, greedy_batch

POOL = points(9, seed=3)
PENDING = points(2, seed=4)
KAPPA, BEST = 1.3, 0.5


def seeded():
    return Generator().manual_seed(11)


def batch_value(acquisition, rows, pending, draws, mean):
    """Return by its definition what a batch and the pending objects are worth over given draws."""
    columns = [*range(len(pending)), *(len(pending) + row for row in rows)]
    if acquisition == "q_log_ei":
        utility = (draws[:, columns] - BEST).clamp_min(0.0)
    else:
        utility = mean[columns] + KAPPA * sqrt(pi / 2) * (draws[:, columns] - mean[columns]).abs()
    return utility.amax(1).mean().item()


def setting(acquisition, pending):
    everything = torch.cat([pending, POOL])
    draws = fitted_gp().sample(everything, 512, generator=seeded())
    mean = fitted_gp().mean_sd(everything)[0]
    return lambda rows: batch_value(acquisition, rows, pending, draws, mean)


@pytest.mark.parametrize("pending", [PENDING, PENDING[:0]], ids=["pending", "none pending"])
@pytest.mark.parametrize("acquisition", ["q_ucb", "q_log_ei"])
def test_each_pick_is_the_best_to_add_and_the_batch_near_the_best_there_is(acquisition, pending):
    value = setting(acquisition, pending)
    batch = greedy_batch(
        fitted_gp(), POOL, 3, acquisition, X_pending=pending, best=BEST, kappa=KAPPA, generator=seeded()
    )
    for step in range(3):
        by_hand = {row: value([*batch[:step], row]) for row in range(9) if row not in batch[:step]}
        assert batch[step] == max(by_hand, key=by_hand.__getitem__)
    optimum = max(value(rows) for rows in combinations(range(9), 3))
    nothing = value([]) if len(pending) else 0.0
    # Nemhauser's bound of a submodular, monotone value; here greedy comes much nearer.
    assert value(batch) - nothing >= (1 - (2 / 3) ** 3) * (optimum - nothing)


@pytest.mark.parametrize("acquisition", ["q_ucb", "q_log_ei"])
def test_the_first_pick_is_that_of_the_frozen_acquisition(acquisition):
    batch = greedy_batch(
        fitted_gp(),
        POOL,
        1,
        acquisition,
        X_pending=PENDING,
        best=BEST,
        kappa=KAPPA,
        n_draws=2**14,
        generator=seeded(),
    )
    frozen = (
        q_log_ei(fitted_gp(), BEST, PENDING, n_draws=2**12)
        if acquisition == "q_log_ei"
        else q_ucb(fitted_gp(), KAPPA, PENDING, n_draws=2**12)
    )
    assert batch == [int(frozen(POOL).argmax())]


def test_where_nothing_improves_the_nearest_to_it_is_taken():
    batch = greedy_batch(fitted_gp(), POOL, 9, "q_log_ei", best=100.0, generator=seeded())
    draws = fitted_gp().sample(POOL, 512, generator=seeded())
    assert sorted(batch) == list(range(9))
    assert batch == draws.amax(0).argsort(descending=True).tolist()


def test_a_batch_is_never_larger_than_its_pool():
    assert sorted(greedy_batch(fitted_gp(), POOL, 20, generator=seeded())) == list(range(9))


def test_the_same_object_is_not_bought_twice_for_its_copy():
    twins = torch.cat([POOL, POOL])
    batch = greedy_batch(fitted_gp(), twins, 3, generator=seeded())
    assert len({row % 9 for row in batch}) == 3


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="best"):
        greedy_batch(fitted_gp(), POOL, 2, "q_log_ei", generator=seeded())
    with pytest.raises(ConfigError, match="q_ucb"):
        greedy_batch(fitted_gp(), POOL, 2, "q_ei", generator=seeded())
    with pytest.raises(ConfigError, match="kappa"):
        greedy_batch(fitted_gp(), POOL, 2, kappa=-1.0, generator=seeded())


def random_kernel(m, seed):
    factor = torch.randn(m, m, generator=Generator().manual_seed(seed), dtype=torch.float64)
    kernel = factor @ factor.mT
    root = kernel.diagonal().sqrt()
    return kernel / (root * root.unsqueeze(-1))


def log_det(quality, kernel, rows):
    rows = list(rows)
    scaled = quality[rows].unsqueeze(-1) * kernel[rows][:, rows] * quality[rows]
    return torch.logdet(scaled).item()


@pytest.mark.parametrize("seed", range(5))
def test_each_pick_of_a_dpp_raises_the_determinant_the_most(seed):
    quality = torch.rand(10, generator=Generator().manual_seed(seed), dtype=torch.float64) + 0.2
    kernel = random_kernel(10, seed)
    batch = dpp_batch(quality, kernel, 5)
    for step in range(5):
        by_hand = {
            row: log_det(quality, kernel, [*batch[:step], row]) for row in range(10) if row not in batch[:step]
        }
        assert batch[step] == max(by_hand, key=by_hand.__getitem__)


def test_a_near_copy_loses_to_a_worse_object_that_differs():
    kernel = torch.tensor([[1.0, 0.999, 0.0], [0.999, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert dpp_batch(torch.tensor([2.0, 1.9, 0.5], dtype=torch.float64), kernel, 2) == [0, 2]


def test_weight_of_quality_spans_hundreds_of_powers_of_ten():
    quality = torch.tensor([1e-200, 1e-180, 1e150], dtype=torch.float64)
    assert dpp_batch(quality, torch.eye(3, dtype=torch.float64), 3) == [2, 1, 0]


def test_when_the_rank_is_used_up_the_rest_go_by_quality():
    features = torch.randn(6, 2, generator=Generator().manual_seed(0), dtype=torch.float64)
    features = features / features.norm(dim=1, keepdim=True)
    quality = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    batch = dpp_batch(quality, features @ features.mT, 6)
    assert sorted(batch) == list(range(6))
    assert batch[2:] == sorted(batch[2:], reverse=True)


def test_wrong_shapes_and_weights_are_refused():
    with pytest.raises(ShapeError, match="m x m"):
        dpp_batch(torch.ones(3), torch.eye(2), 1)
    with pytest.raises(ConfigError, match="positive"):
        dpp_batch(torch.tensor([1.0, 0.0]), torch.eye(2), 1)
