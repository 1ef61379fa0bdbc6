import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.variational import CholeskyVariationalDistribution

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates import score_predictions, svgp
from flowscout.surrogates.svgp import SVGP


def codes(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(4, (n, 6), generator=generator).to(torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return X, 7.0 + X[:, :1] - (X[:, 1:2] == X[:, 2:3]).double() + 0.2 * noise


def fitted(n: int = 120, **options) -> tuple[SVGP, torch.Tensor, torch.Tensor]:
    X, Y = codes(n)
    surrogate = SVGP(**{"levels": 4, "inducing_points": 20, "n_steps": 60, **options})
    surrogate.fit(X, Y)
    return surrogate, X, Y


def test_with_every_label_as_inducing_point_it_is_the_exact_gp():
    surrogate, X, Y = fitted(50, inducing_points=50)
    new = codes(30, seed=3)[0]
    model = surrogate._fitted.model
    kernel, noise, constant = model.model.covar_module, model.likelihood.noise, model.model.mean_module.constant
    with torch.no_grad():
        covariance = kernel(X).to_dense() + noise * torch.eye(50, dtype=torch.float64)
        cross = kernel(new, X).to_dense()
        y = (Y.squeeze(-1) - Y.mean()) / Y.std(correction=0)
        mean = constant + cross @ torch.linalg.solve(covariance, y - constant)
        variance = kernel(new, diag=True) - (cross @ torch.linalg.solve(covariance, cross.T)).diagonal()
    found_mean, found_sd = surrogate.mean_sd(new)
    scale = Y.std(correction=0)
    # 2e-4: the jitter of BoTorch's inducing covariance is 1e-6, over a noise of about 1e-2.
    torch.testing.assert_close(found_mean, Y.mean() + scale * mean, rtol=0, atol=2e-4)
    torch.testing.assert_close(found_sd, scale * variance.sqrt(), rtol=0, atol=2e-4)


def test_posterior_is_botorch_at_the_optimum_of_the_inducing_values():
    surrogate, _, Y = fitted()
    new = codes(30, seed=3)[0]
    held = surrogate._fitted
    strategy = held.model.model.variational_strategy
    covariance = torch.cholesky_inverse(held.precision_root)
    distribution = CholeskyVariationalDistribution(20).double()
    with torch.no_grad():
        distribution.variational_mean.copy_(held.mean)
        distribution.chol_variational_covar.copy_(torch.linalg.cholesky(covariance))
    strategy._variational_distribution = distribution
    strategy.variational_params_initialized.fill_(1)
    with torch.no_grad():
        expected = held.model.posterior(new)
    joint = surrogate.posterior(new)
    scale = Y.std(correction=0)
    # 1e-5: BoTorch adds a jitter of 1e-6 to what it conditions on, twice.
    torch.testing.assert_close(joint.mean, Y.mean() + scale * expected.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(joint.variance, scale.square() * expected.variance, rtol=0, atol=1e-5)


def test_optimum_of_the_inducing_values_is_where_the_bound_is_flat():
    surrogate, X, Y = fitted()
    held = surrogate._fitted
    found = held.log_evidence
    # The collapsed bound of Titsias 2009, eq. 9, written down with dense matrices.
    model = held.model
    points = model.model.variational_strategy.inducing_points
    with torch.no_grad():
        jitter = model.model.variational_strategy.jitter_val * torch.eye(20, dtype=torch.float64)
        kernel, noise = model.model.covar_module, model.likelihood.noise.squeeze()
        cross = kernel(X, points).to_dense()
        low_rank = cross @ torch.linalg.solve(kernel(points).to_dense() + jitter, cross.T)
        y = (Y.squeeze(-1) - Y.mean()) / Y.std(correction=0) - model.model.mean_module.constant
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(120, dtype=torch.float64), low_rank + noise * torch.eye(120, dtype=torch.float64)
        )
        trace = (kernel(X, diag=True) - low_rank.diagonal()).sum()
        expected = normal.log_prob(y) - 0.5 * trace / noise
    assert found == pytest.approx(expected.item(), rel=1e-8)


def test_diagnostics_equal_refits_without_one_label():
    surrogate, X, Y = fitted(40)
    found, state = surrogate.diagnostics(), surrogate.state_dict()
    means, sds = [], []
    for i in range(40):
        rest = [j for j in range(40) if j != i]
        without = SVGP(levels=4, inducing_points=20)
        without.load_state_dict({**state, "n_labels": torch.tensor(39)}, X[rest], Y[rest])
        mean, sd = without.mean_sd(X[i : i + 1])
        means.append(mean)
        sds.append((sd.square() + found["noise_sd"] ** 2).sqrt())
    expected = score_predictions(torch.cat(means), torch.cat(sds), Y.squeeze(-1)).as_dict("loo_")
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_fit_raises_the_bound_above_that_of_the_defaults():
    short, long = fitted(300, n_steps=0, inducing_points=60)[0], fitted(300, inducing_points=60)[0]
    assert long._fitted.log_evidence > short._fitted.log_evidence + 10


def test_inducing_points_move_where_features_are_numbers_alone():
    X = torch.rand(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    surrogate = SVGP(inducing_points=10, n_steps=20)
    surrogate.fit(100.0 + 50.0 * X, (6.0 * X[:, :1]).sin())
    points = surrogate._fitted.model.model.variational_strategy.inducing_points
    scaled = (X - X.amin(0)) / (X.amax(0) - X.amin(0))
    assert bool((torch.cdist(points, scaled).amin(1) > 1e-4).any())
    held = fitted()[0]._fitted
    rows = held.model.model.variational_strategy.inducing_points
    assert bool((torch.cdist(rows, held.X).amin(1) == 0.0).all())


def test_any_gpytorch_kernel_may_be_passed_in():
    X = torch.rand(80, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kernel in (RBFKernel, MaternKernel):
        surrogate = SVGP(kernel=lambda d, k=kernel: ScaleKernel(k(ard_num_dims=d)), inducing_points=20, n_steps=40)
        surrogate.fit(X, (6.0 * X[:, :1]).sin())
        assert isinstance(surrogate._fitted.model.model.covar_module.base_kernel, kernel)
        assert surrogate.diagnostics()["loo_r2"] > 0.9


def test_failed_fit_falls_back_to_the_defaults_and_says_so(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(svgp.NGD, "step", fail)
    surrogate, X, _ = fitted()
    assert surrogate.diagnostics()["fit_succeeded"] == 0.0
    assert bool(surrogate.mean_sd(X)[1].isfinite().all())


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="inducing_points is 0"):
        SVGP(inducing_points=0)
    surrogate, X, Y = fitted()
    with pytest.raises(ShapeError, match="SVGP"):
        SVGP(levels=4, kernel=lambda d: RBFKernel(ard_num_dims=d)).load_state_dict(surrogate.state_dict(), X, Y)
