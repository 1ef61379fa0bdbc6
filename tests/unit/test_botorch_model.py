import pytest
import torch
from botorch import settings
from botorch.cross_validation import gen_loo_cv_folds
from botorch.exceptions.errors import ModelFittingError
from botorch.models import SingleTaskGP, SingleTaskVariationalGP
from botorch.models.ensemble import EnsembleModel
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.transformed import TransformedPosterior
from gpytorch.mlls import VariationalELBO

from flowscout.errors import ShapeError
from flowscout.surrogates import score_predictions
from flowscout.surrogates.botorch_model import BotorchSurrogate


def data(n: int = 30, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return X, 1e3 * (5.0 + (6.0 * X[:, :1]).sin() + 0.1 * noise)


def single_task(X: torch.Tensor, Y: torch.Tensor) -> SingleTaskGP:
    return SingleTaskGP(X, Y)


def sparse(X: torch.Tensor, Y: torch.Tensor) -> SingleTaskVariationalGP:
    return SingleTaskVariationalGP(X, Y, inducing_points=10)


def fit_sparse(model: SingleTaskVariationalGP) -> None:
    bound = VariationalELBO(model.likelihood, model.model, num_data=len(model.model.train_targets))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model.train()
    for _ in range(80):
        optimiser.zero_grad()
        (-bound(model(model.model.train_inputs[0]), model.model.train_targets)).backward()
        optimiser.step()


class Lines(EnsembleModel):
    """Straight lines through the labels' mean, of random slopes: a model without noise or fit."""

    def __init__(self, X: torch.Tensor, Y: torch.Tensor) -> None:
        super().__init__()
        self._num_outputs = 1
        self.register_buffer("slopes", torch.randn(5, X.shape[1], 1, dtype=X.dtype))
        self.register_buffer("mean", Y.mean())

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.mean + X.unsqueeze(-3) @ self.slopes


def test_posterior_is_that_of_the_model_on_the_scale_of_the_labels():
    X, Y = data()
    surrogate = BotorchSurrogate(single_task)
    surrogate.fit(X, Y)
    new = data(seed=1)[0]
    with torch.no_grad():
        expected = surrogate._fitted.model.posterior(new)
    scale = Y.std(correction=0)
    posterior = surrogate.posterior(new)
    assert isinstance(posterior, GPyTorchPosterior)
    torch.testing.assert_close(posterior.mean, Y.mean() + scale * expected.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(posterior.variance, scale.square() * expected.variance, rtol=1e-9, atol=0)
    assert bool((surrogate.mean_sd(new)[0] - Y.mean()).abs().max() > 0.3 * scale)


def test_exact_gp_is_scored_by_leaving_each_label_out():
    X, Y = data(12)
    scale = Y.std(correction=0)
    standardised = (Y - Y.mean()) / scale
    # The same hyper-parameters in each fold, and the scale of all labels.
    folds = gen_loo_cv_folds(X, standardised)
    means, sds = [], []
    for i in range(12):
        with settings.validate_input_scaling(False):  # without one label the others are not standardised
            model = SingleTaskGP(folds.train_X[i], folds.train_Y[i], outcome_transform=None)
            full = SingleTaskGP(X, standardised, outcome_transform=None)
        model.load_state_dict(full.state_dict())
        with torch.no_grad():
            posterior = model.posterior(folds.test_X[i], observation_noise=True)
        means.append(posterior.mean.squeeze())
        sds.append(posterior.variance.squeeze().sqrt())
    surrogate = BotorchSurrogate(lambda X, Y: SingleTaskGP(X, Y, outcome_transform=None), fit=None)
    surrogate.fit(X, Y)
    expected = score_predictions(scale * torch.stack(means), scale * torch.stack(sds), scale * standardised[:, 0])
    found = surrogate.diagnostics()
    for name, value in expected.as_dict("loo_").items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_other_models_are_scored_by_folds_fitted_anew():
    X, Y = data(40)
    fits = []

    def fit(model: SingleTaskVariationalGP) -> None:
        fits.append(len(model.model.train_targets))
        fit_sparse(model)

    surrogate = BotorchSurrogate(sparse, fit=fit)
    surrogate.fit(X, Y)
    found = surrogate.diagnostics()
    assert fits == [40, 32, 32, 32, 32, 32]
    assert found["loo_spearman"] > 0.8
    assert 0.0 < found["noise_sd"] < Y.std()
    assert found == surrogate.diagnostics()


def test_a_model_without_noise_or_fit_is_a_surrogate_too():
    X, Y = data()
    surrogate = BotorchSurrogate(Lines, fit=None)
    surrogate.fit(X, Y)
    posterior = surrogate.posterior(X)
    assert isinstance(posterior, TransformedPosterior)
    mean, sd = surrogate.mean_sd(X)
    torch.testing.assert_close(posterior.mean.squeeze(-1), mean)
    torch.testing.assert_close(posterior.variance.squeeze(-1).sqrt(), sd)
    draws = surrogate.sample(X, 50, generator=torch.Generator().manual_seed(0))
    assert len(torch.unique(draws, dim=0)) == 5
    assert surrogate.diagnostics()["noise_sd"] == 0.0
    rebuilt = BotorchSurrogate(Lines, fit=None, seed=5)
    rebuilt.load_state_dict(surrogate.state_dict(), X, Y)
    assert torch.equal(rebuilt.mean_sd(X)[0], mean)


@pytest.mark.parametrize("error", [ModelFittingError, RuntimeError])
def test_failed_fit_falls_back_to_the_first_hyper_parameters_and_says_so(error):
    def fail(_: object) -> None:
        raise error("no")

    X, Y = data()
    failed, unfitted = BotorchSurrogate(single_task, fit=fail), BotorchSurrogate(single_task, fit=None)
    failed.fit(X, Y)
    unfitted.fit(X, Y)
    assert failed.diagnostics()["fit_succeeded"] == 0.0
    assert torch.equal(failed.mean_sd(X)[0], unfitted.mean_sd(X)[0])


def test_state_of_another_model_is_refused():
    X, Y = data()
    surrogate = BotorchSurrogate(single_task)
    surrogate.fit(X, Y)
    with pytest.raises(ShapeError, match="does not fit the model"):
        BotorchSurrogate(sparse, fit=fit_sparse).load_state_dict(surrogate.state_dict(), X, Y)
