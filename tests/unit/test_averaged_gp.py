"""Several kernels as one belief: moments of a mixture, weights by what was foretold."""

from copy import copy

import pytest
import torch

from flowscout.errors import ShapeError
from flowscout.surrogates import AveragedGP, ExactGP, Surrogate, auto, prior_weights
from flowscout.surrogates.auto import LIGHT_LEARNING, PRIOR_LABELS, SHARPNESS, shares, stacked_weights
from flowscout.surrogates.diagnostics import leave_one_out

KERNELS = {"product": 0.25, "pairs": 0.75}


def codes(n, d=6, levels=4, seed=0):
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def motif(X):
    """Return 1 where 0, 1, 2 stand in a row, anywhere, and 0.2 for every letter 3."""
    there = ((X[:, :-2] == 0) & (X[:, 1:-1] == 1) & (X[:, 2:] == 2)).any(1)
    return (there.double() + 0.2 * (X == 3).sum(1)).unsqueeze(-1)


def fitted(n=60, kernels=KERNELS):
    surrogate: Surrogate = AveragedGP(kernels, levels=4)
    X = codes(n)
    surrogate.fit(X, motif(X))
    return surrogate


def members():
    found = []
    for kernel in KERNELS:
        member = ExactGP(kernel=kernel, levels=4)
        member.fit(codes(60), motif(codes(60)))
        found.append(member)
    return found


def test_mean_and_variance_are_those_of_the_mixture():
    X = codes(20, seed=5)
    means, sds = zip(*[member.mean_sd(X) for member in members()], strict=True)
    first, other = fitted().weights
    mean = first * means[0] + other * means[1]
    second = first * (sds[0] ** 2 + means[0] ** 2) + other * (sds[1] ** 2 + means[1] ** 2)
    found_mean, found_sd = fitted().mean_sd(X)
    torch.testing.assert_close(found_mean, mean)
    torch.testing.assert_close(found_sd, (second - mean**2).sqrt())
    posterior = fitted().posterior(X)
    torch.testing.assert_close(posterior.mean.squeeze(-1), mean)
    torch.testing.assert_close(posterior.variance.squeeze(-1).sqrt(), found_sd, rtol=1e-6, atol=1e-8)


def test_each_kernel_gives_its_share_of_the_draws():
    X = codes(15, seed=5)
    draws = fitted().sample(X, 4_000, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (4_000, 15)
    mean, sd = fitted().mean_sd(X)
    # Five standard errors of a mean and of an sd over 4,000 draws.
    assert ((draws.mean(0) - mean).abs() <= 5 * sd / 4_000**0.5).all()
    assert ((draws.std(0) / sd - 1).abs() <= 0.1).all()


def test_first_weights_make_the_mixture_predict_labels_left_out_best():
    surrogate, densities = fitted(), []
    for member in members():
        error, sd = leave_one_out(member._fitted.cholesky, member._fitted.residual)
        scale = member._fitted.label_sd
        densities.append(torch.distributions.Normal(0.0, scale * sd).log_prob(scale * error).exp())
    prior = torch.tensor(list(KERNELS.values()), dtype=torch.float64)

    def objective(first):
        weights = torch.stack([first, 1.0 - first])
        return (weights @ torch.stack(densities)).log().sum() + PRIOR_LABELS * (prior @ weights.log())

    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    best = grid[torch.stack([objective(first) for first in grid]).argmax()]
    assert surrogate.weights[0].item() == pytest.approx(best.item(), abs=0.001)  # the grid's step
    assert surrogate.weights[0] != 0.25
    assert surrogate.weighed_by == "how they predict labels left out"


def test_stacking_gives_a_mixture_what_neither_member_can():
    # Each member is right about half of the labels: both are needed. A strong prior stands.
    log_density = torch.tensor([[0.0] * 50 + [-9.0] * 50, [-9.0] * 50 + [0.0] * 50], dtype=torch.float64)
    prior = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert stacked_weights(log_density, prior, 1e-9).tolist() == pytest.approx(
        [0.5, 0.5], abs=1e-3
    )  # e^-9 overlap
    assert stacked_weights(log_density, prior, 1e9).tolist() == pytest.approx([0.9, 0.1])


def test_labels_that_decide_nothing_leave_the_prior():
    surrogate = AveragedGP(KERNELS, levels=4)
    surrogate.fit(codes(8), torch.ones(8, 1, dtype=torch.float64))
    assert surrogate.weights.tolist() == pytest.approx(list(KERNELS.values()), abs=0.01)
    bounded = torch.tensor([[0.0, torch.inf]] * 8, dtype=torch.float64)
    surrogate.fit(codes(8), torch.ones(8, 1, dtype=torch.float64), bounds=bounded)
    assert surrogate.weights.tolist() == pytest.approx(list(KERNELS.values()))


def test_weights_follow_what_was_foretold():
    surrogate, later = fitted(), AveragedGP(KERNELS, levels=4)
    X = codes(24, seed=9)
    later.foretell(surrogate, X, motif(X))
    expected = []
    for weight, member in zip(surrogate.weights, members(), strict=True):
        mean, sd = member.mean_sd(X)
        noisy = torch.distributions.Normal(mean, (sd**2 + member.diagnostics()["noise_sd"] ** 2).sqrt())
        expected.append(weight * torch.exp(SHARPNESS * noisy.log_prob(motif(X).squeeze(-1)).mean()))
    expected = torch.stack(expected)
    torch.testing.assert_close(later.weights, expected / expected.sum())
    before = later.weights
    later.fit(codes(60), motif(codes(60)))
    assert torch.equal(later.weights, before)  # labels left out have no say any more
    assert later.weighed_by == "what they foretold"
    diagnostics = later.diagnostics()
    assert diagnostics["weight_pairs"] == pytest.approx(later.weights[1].item())
    assert {"foretold_nlpd_product", "foretold_nlpd_pairs", "loo_rmse"} <= diagnostics.keys()


def test_weights_stay_where_nothing_but_bounds_was_known():
    previous, later = AveragedGP(KERNELS, levels=4), AveragedGP(KERNELS, levels=4)
    bounded = torch.tensor([[-torch.inf, 1.0]]).double().expand(8, 2)
    previous.fit(codes(8), torch.ones(8, 1, dtype=torch.float64), bounds=bounded)
    X = codes(24, seed=9)
    later.foretell(previous, X, motif(X))
    assert torch.equal(later.weights, previous.weights)


def test_the_kernel_that_foretells_gains_weight():
    surrogate, later = fitted(n=120), AveragedGP(KERNELS, levels=4)
    X = codes(60, seed=9)
    nlpds = []
    for member in surrogate._members:
        mean, sd = member.mean_sd(X)
        nlpds.append(-torch.distributions.Normal(mean, sd).log_prob(motif(X).squeeze(-1)).mean())
    later.foretell(surrogate, X, motif(X))
    better = int(torch.stack(nlpds).argmin())
    assert later.weights[better] > surrogate.weights[better]


def test_a_kernel_of_next_to_no_weight_learns_from_few_labels_and_is_not_asked():
    surrogate = AveragedGP({"product": 0.9999, "pairs": 0.0001}, levels=4)
    surrogate._foretold = torch.zeros(2, dtype=torch.float64)  # so that a fit leaves the weights
    X, new = codes(300), codes(20, seed=5)
    surrogate.fit(X, motif(X))
    heavy, light = surrogate._members
    assert [len(m._fitted.model.train_targets) for m in (heavy, light)] == [300, LIGHT_LEARNING]
    assert surrogate.weights.tolist() == [1.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(surrogate.mean_sd(new), heavy.mean_sd(new), strict=True))
    torch.testing.assert_close(surrogate.posterior(new).mean, heavy.posterior(new).mean)
    later = AveragedGP({"product": 0.9999, "pairs": 0.0001}, levels=4)
    later.foretell(surrogate, new, motif(new))
    assert later._foretold.isfinite().all()  # what it foretells is still heard, so that it may come back


def test_weights_are_kept_where_nothing_was_measured_since():
    surrogate, later, last = fitted(), AveragedGP(KERNELS, levels=4), AveragedGP(KERNELS, levels=4)
    X = codes(24, seed=9)
    later.foretell(surrogate, X, motif(X))
    later.fit(codes(60), motif(codes(60)))
    last.take_weights(later)
    last.fit(codes(60), motif(codes(60)))  # which would stack the weights anew
    assert torch.equal(last.weights, later.weights)
    assert last.weighed_by == "what they foretold"


def test_of_many_labels_the_best_and_a_spread_of_the_others_are_known(monkeypatch):
    monkeypatch.setattr(auto, "MAX_KNOWN", 20)
    X, new = codes(90), codes(20, seed=5)
    Y = motif(X) + 1e-3 * torch.arange(90).unsqueeze(-1)
    surrogate = AveragedGP(KERNELS, levels=4)
    surrogate.fit(X, Y)
    known = surrogate._members[0]._fitted.X
    order = Y.flatten().argsort(descending=True)
    assert len(known) == 20
    for row in (*order[:10].tolist(), int(order[-1])):
        assert (known == X[row]).all(1).any()
    rebuilt = AveragedGP(KERNELS, levels=4)
    rebuilt.load_state_dict(surrogate.state_dict(), X, Y)
    assert all(torch.equal(a, b) for a, b in zip(surrogate.mean_sd(new), rebuilt.mean_sd(new), strict=True))


def test_a_surrogate_of_other_kernels_is_not_asked():
    later = AveragedGP({"product": 0.5, "additive": 0.5}, levels=4)
    later.foretell(fitted(), codes(5), motif(codes(5)))
    assert later.weights.tolist() == [0.5, 0.5]


def test_rebuilt_surrogate_predicts_the_same_to_the_last_bit():
    first, surrogate = fitted(), AveragedGP(KERNELS, levels=4)
    X = codes(24, seed=9)
    surrogate.foretell(first, X, motif(X))
    surrogate.fit(codes(60), motif(codes(60)))
    rebuilt = AveragedGP(KERNELS, levels=4)
    rebuilt.load_state_dict(surrogate.state_dict(), codes(60), motif(codes(60)))
    assert all(torch.equal(a, b) for a, b in zip(surrogate.mean_sd(X), rebuilt.mean_sd(X), strict=True))
    assert rebuilt.diagnostics() == surrogate.diagnostics()
    with pytest.raises(ShapeError, match="averages product, additive, pairs"):
        AveragedGP({"product": 0.3, "additive": 0.3, "pairs": 0.4}).load_state_dict(
            surrogate.state_dict(), codes(60), motif(codes(60))
        )


def test_copy_keeps_its_predictions_when_the_original_is_fitted_again():
    surrogate = fitted()
    kept, X = copy(surrogate), codes(10, seed=4)
    before = kept.mean_sd(X)
    surrogate.fit(codes(30, seed=7), motif(codes(30, seed=7)))
    assert all(torch.equal(a, b) for a, b in zip(before, kept.mean_sd(X), strict=True))
    assert not torch.equal(before[0], surrogate.mean_sd(X)[0])


def test_prior_weights_sum_to_one_and_lean_to_floating_motifs_in_small_alphabets():
    for levels, heavier in ((4, "pairs"), (20, "additive")):
        weights = prior_weights(levels)
        assert sum(weights.values()) == pytest.approx(1.0)
        assert max(weights, key=weights.get) == heavier


@pytest.mark.parametrize(
    ("weights", "n", "expected"),
    [([0.5, 0.5], 4, [2, 2]), ([0.9, 0.1], 24, [22, 2]), ([0.99, 0.01], 24, [24, 0]), ([1 / 3] * 3, 4, [2, 1, 1])],
)
def test_shares_are_whole_and_complete(weights, n, expected):
    assert shares(weights, n) == expected
