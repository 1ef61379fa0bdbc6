import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.sampling.normal import SobolQMCNormalSampler
from wrapped_gp import WrappedGP, fitted_gp, points

from flowscout.errors import ShapeError
from flowscout.surrogates.acquisition import log_ei
from flowscout.surrogates.as_model import AsModel, from_botorch
from flowscout.surrogates.batch_acquisition import q_log_ei

X = points(24, seed=9).reshape(2, 4, 3, 2)


class Chunked(WrappedGP):
    """Counts the rows of each question; a copy counts on the same list."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def posterior(self, X):
        self.asked.append(len(X))
        return super().posterior(X)


@pytest.mark.parametrize("q", [1, 3])
def test_batches_of_joint_posteriors_are_botorchs_own(q):
    with torch.no_grad():
        expected = fitted_gp().model.posterior(X[..., :q, :])
        actual = AsModel(fitted_gp()).posterior(X[..., :q, :])
    assert actual.mean.shape == (2, 4, q, 1)
    # The same model by another order of operations.
    assert torch.allclose(actual.mean, expected.mean, rtol=1e-10)
    covariance = expected.distribution.covariance_matrix
    assert torch.allclose(actual.distribution.covariance_matrix, covariance, rtol=1e-9, atol=1e-11)


def test_noise_and_transforms_are_added_where_asked_for():
    model = AsModel(fitted_gp(), noise_variance=0.25)
    plain = model.posterior(X).variance
    assert torch.allclose(model.posterior(X, observation_noise=True).variance, plain + 0.25)
    own = torch.full((1, 1), 0.5, dtype=torch.float64)
    assert torch.allclose(model.posterior(X, observation_noise=own).variance, plain + 0.5)
    twice = ScalarizedPosteriorTransform(torch.tensor([2.0], dtype=torch.float64))
    assert torch.allclose(model.posterior(X, posterior_transform=twice).variance, 4.0 * plain)


def test_the_model_keeps_the_state_it_was_made_from():
    gp = fitted_gp()
    model = AsModel(gp)
    before = model.posterior(X).mean
    gp.fit(points(5), points(5)[:, :1])
    assert torch.equal(model.posterior(X).mean, before)


def test_a_frozen_acquisition_of_botorch_is_botorchs_own_value():
    rows = points(30, seed=2)
    frozen = from_botorch(lambda m: LogExpectedImprovement(m, 0.5), fitted_gp(), name="log_ei", is_log=True)
    assert (frozen.name, frozen.is_log) == ("log_ei", True)
    # Variances by two routes, in the tail.
    assert torch.allclose(frozen(rows), log_ei(fitted_gp(), 0.5)(rows), rtol=1e-7)

    def make(model):
        sampler = SobolQMCNormalSampler(torch.Size([256]), seed=3)
        return qLogExpectedImprovement(model, 0.5, sampler=sampler, X_pending=points(2, seed=6))

    joint = from_botorch(make, fitted_gp(), name="q_log_ei", is_log=True)
    with torch.no_grad():
        expected = make(fitted_gp().model)(rows.unsqueeze(-2))
    assert torch.allclose(joint(rows), expected, rtol=1e-7)


def test_objects_that_differ_but_are_one_to_the_kernel_have_one_value():
    class Mirrored(WrappedGP):
        """Knows features by their size only, as a kernel with a symmetry does."""

        def posterior(self, X):
            return super().posterior(X.abs())

        def mean_sd(self, X):
            return super().mean_sd(X.abs())

    gp = Mirrored()
    gp.fit(points(12), points(12)[:, :1])
    rows = points(20, seed=1)
    acquisition = q_log_ei(gp, 0.5, torch.cat([rows[:1], -rows[:1]]))
    value = acquisition(torch.cat([rows, -rows]))
    # The first is pending: of its sd nothing but rounding is left, and its logarithm is no number to compare.
    assert torch.allclose(value[1:20], value[21:], rtol=1e-6)
    assert bool((value[[0, 20]] < -10.0).all())


def test_rows_are_asked_for_in_bounded_chunks():
    gp = Chunked()
    gp.fit(points(12), points(12)[:, :1])
    AsModel(gp).posterior(points(3000, seed=4).reshape(1000, 3, 2))
    assert sum(gp.asked) == 3000
    assert max(gp.asked) <= 512


def test_another_output_is_refused():
    with pytest.raises(ShapeError, match="one output"):
        AsModel(fitted_gp()).posterior(X, output_indices=[1])
