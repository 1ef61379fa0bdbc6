"""Kernels over codes against their definitions, written out."""

import itertools

import pytest
import torch

from flowscout.surrogates import exact_gp
from flowscout.surrogates.exact_gp import ExactGP
from flowscout.surrogates.kernels import (
    AdditiveKernel,
    GappedPairKernel,
    HammingKernel,
    MixtureKernel,
    SymmetricKernel,
    code_kernel,
)

NAMES = ["product", "additive", "pairs", "mixture"]


def codes(n, d=6, levels=4, seed=0):
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def labels(X):
    return ((X[:, 0] == 2).double() + 0.5 * (X[:, 1] == X[:, 2]).double() + 0.1 * X[:, 3]).unsqueeze(-1)


def pairs_of(row, max_gap=99):
    return {
        (a, b, j - i) for (i, a), (j, b) in itertools.combinations(enumerate(row.tolist()), 2) if j - i <= max_gap
    }


def test_pairs_are_compared_wherever_they_stand():
    X, Y = codes(7), codes(5, seed=1)
    found = GappedPairKernel(4).forward(X, Y)
    for (i, x), (j, y) in itertools.product(enumerate(X), enumerate(Y)):
        a, b = pairs_of(x), pairs_of(y)
        assert found[i, j].item() == pytest.approx((len(a & b) / (len(a) * len(b)) ** 0.5) ** 2)


def test_a_shifted_motif_is_more_alike_in_pairs_than_place_by_place():
    x, shifted = torch.tensor([[0, 1, 2, 3, 0, 0.0]]).double(), torch.tensor([[0, 0, 1, 2, 3, 0.0]]).double()
    other = torch.tensor([[3, 1, 0, 0, 2, 0.0]]).double()
    kernel = GappedPairKernel(4)
    assert kernel.forward(x, shifted) > 2 * kernel.forward(x, other)


def test_wide_alphabets_leave_out_wide_gaps(monkeypatch):
    monkeypatch.setattr("flowscout.surrogates.kernels.MAX_PAIRS", 2 * 16)
    X = codes(4)
    found = GappedPairKernel(4).forward(X, X)
    for (i, x), (j, y) in itertools.product(enumerate(X), enumerate(X)):
        a, b = pairs_of(x, 2), pairs_of(y, 2)
        assert found[i, j].item() == pytest.approx((len(a & b) / (len(a) * len(b)) ** 0.5) ** 2)


def test_one_letter_has_no_pair_and_all_are_alike():
    X = codes(3, d=1)
    assert torch.equal(GappedPairKernel(4).forward(X, X), torch.ones(3, 3).double())


@pytest.mark.parametrize("symmetry", [None, lambda X: 3.0 - X.flip(-1)])
def test_a_fit_reads_the_pairs_of_its_codes_once(monkeypatch, symmetry):
    asked, read = [], GappedPairKernel._read
    monkeypatch.setattr(GappedPairKernel, "_read", lambda *given: asked.append(given) or read(*given))
    gp = ExactGP(kernel="pairs", levels=4, symmetry=symmetry)
    gp.fit(codes(40), labels(codes(40)))
    images = 1 if symmetry is None else 2
    assert len(asked) <= 3 * images  # in training, for the factor, and to be kept for predictions
    assert gp._fitted.model.covar_module.base_kernel.training is False


def test_pairs_kept_in_training_are_those_of_the_codes_asked_for():
    kernel = GappedPairKernel(4)
    known = [kernel.train(mode=False).prepare(codes(9, seed=k), 4) for k in range(4)]
    kernel.train()
    for k in (0, 1, 0, 2, 3, 3, 1):
        found = kernel.prepare(codes(9, seed=k), 4)
        assert all(torch.equal(one, other) for one, other in zip(found, known[k], strict=True))
    assert kernel.prepare(codes(9), 5)[0].shape != known[0][0].shape
    assert len(kernel._kept) == 2
    assert kernel.eval()._kept == []


def test_additive_kernel_is_the_weighted_share_of_agreement():
    kernel = AdditiveKernel(6).double()
    torch.nn.init.normal_(kernel.raw_weight, generator=torch.Generator().manual_seed(0))
    X, Y = codes(7), codes(5, seed=1)
    expected = ((X.unsqueeze(1) == Y.unsqueeze(0)) * kernel.raw_weight.softmax(0)).sum(-1)
    torch.testing.assert_close(kernel.forward(X, Y), expected)


def test_one_lengthscale_for_all_positions_counts_them_all():
    kernel = HammingKernel().double()
    kernel.lengthscale = 0.7
    X, Y = codes(4), codes(5, seed=1)
    share = (X.unsqueeze(1) != Y.unsqueeze(0)).double().mean(-1)
    torch.testing.assert_close(kernel.forward(X, Y), torch.exp(-share / 0.7))


@pytest.mark.parametrize("symmetry", [None, lambda X: 3.0 - X.flip(-1)])
@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_has_a_diagonal_of_one_and_compares_what_it_prepared(name, symmetry):
    kernel = code_kernel(name, n_positions=6, n_levels=4, symmetry=symmetry).double()
    X, Y = codes(7), codes(5, seed=1)
    with torch.no_grad():
        whole = kernel.forward(X, Y)
        torch.testing.assert_close(kernel.forward(X, X).diagonal(), torch.ones(7).double())
        torch.testing.assert_close(kernel.forward(X, X, diag=True), torch.ones(7).double())
        torch.testing.assert_close(kernel.compare(kernel.prepare(X, 4), kernel.prepare(Y, 4)), whole)
        torch.testing.assert_close(kernel.forward(X[:5], Y, diag=True), whole[:5].diagonal())
        assert torch.linalg.eigvalsh(kernel.forward(X, X)).min() > -1e-10  # rounding of a sum of four


def test_mixture_is_the_weighted_mean():
    parts = [GappedPairKernel(4), AdditiveKernel(6).double()]
    kernel = MixtureKernel(parts).double()
    with torch.no_grad():
        kernel.raw_weight.copy_(torch.tensor([0.0, 1.0]))
        X = codes(5)
        expected = sum(w * part.forward(X, X) for w, part in zip([0.2689414, 0.7310586], parts, strict=True))
        torch.testing.assert_close(kernel.forward(X, X), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetry", [None, lambda X: 3.0 - X.flip(-1)])
def test_posterior_is_that_of_botorch_with_the_same_kernel(name, symmetry):
    X = codes(30)
    surrogate = ExactGP(kernel=name, levels=4, symmetry=symmetry, max_iterations=10)
    surrogate.fit(X, labels(X))
    new = codes(9, seed=3)
    expected = surrogate._fitted.model.posterior(new)
    mean, sd = surrogate.mean_sd(new)
    scale = labels(X).std(correction=0)
    torch.testing.assert_close(mean, labels(X).mean() + scale * expected.mean.squeeze(-1), atol=1e-7, rtol=0)
    torch.testing.assert_close(sd, scale * expected.variance.squeeze(-1).sqrt(), atol=1e-7, rtol=0)


def test_an_object_and_its_image_may_stand_in_one_posterior():
    X = codes(20)
    surrogate = ExactGP(kernel="pairs", levels=4, symmetry=lambda codes: 3.0 - codes.flip(-1))
    surrogate.fit(X, labels(X))
    posterior = surrogate.posterior(torch.cat([X[:3], 3.0 - X[:3].flip(-1)]))
    torch.testing.assert_close(posterior.mean[:3], posterior.mean[3:])


def test_fewer_labels_for_an_sd_never_make_it_smaller_and_means_use_all(monkeypatch):
    X, new = codes(80), codes(40, seed=3)
    surrogate = ExactGP(kernel="pairs", levels=4)
    surrogate.fit(X, labels(X))
    state, (mean, sd) = surrogate.state_dict(), surrogate.mean_sd(new)
    monkeypatch.setattr(exact_gp, "MAX_SPREAD", 30)
    few = surrogate.unfitted()
    few.load_state_dict(state, X, labels(X))
    mean_few, sd_few = few.mean_sd(new)
    assert torch.equal(mean_few, mean)
    assert (sd_few >= sd - 1e-9).all()
    assert (sd_few > sd + 1e-6).any()
    joint = few.posterior(new)  # of all labels still
    torch.testing.assert_close(joint.variance.squeeze(-1).sqrt(), sd)


def test_hyper_parameters_are_learned_from_labels_of_every_height():
    X = codes(200)
    surrogate = ExactGP(levels=4, max_learning=12)
    surrogate.fit(X, labels(X))
    learned = surrogate._fitted.model.train_targets
    assert len(learned) == 12
    standardised = (labels(X) - labels(X).mean()) / labels(X).std(correction=0)
    torch.testing.assert_close(learned.max(), standardised.max())
    torch.testing.assert_close(learned.min(), standardised.min())
    rebuilt = surrogate.unfitted()
    rebuilt.load_state_dict(surrogate.state_dict(), X, labels(X))
    assert all(torch.equal(a, b) for a, b in zip(surrogate.mean_sd(X), rebuilt.mean_sd(X), strict=True))


def test_a_category_that_no_label_has_is_alike_to_itself_alone():
    X = codes(20, levels=3)
    surrogate = ExactGP(symmetry=None)
    surrogate.fit(X, labels(X))
    new = torch.full((2, 6), 7.0, dtype=torch.float64)
    posterior = surrogate.posterior(new)
    covariance = posterior.distribution.covariance_matrix
    torch.testing.assert_close(covariance[0, 1], covariance[0, 0])


def test_symmetric_kernel_reads_categories_of_images():
    kernel = SymmetricKernel(HammingKernel(ard_num_dims=1).double(), lambda X: 3.0 - X)
    X = torch.tensor([[0.0], [2.0]]).double()  # whose images, 3 and 1, do not occur
    torch.testing.assert_close(kernel.forward(X, X), kernel.forward(3.0 - X, X))
