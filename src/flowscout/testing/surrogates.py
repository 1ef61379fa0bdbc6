"""The contract that every surrogate keeps, as one class of pytest tests.

What is special to one surrogate (its accuracy, its own errors) belongs in that surrogate's own tests.

    class TestMySurrogate(SurrogateContract):
        @pytest.fixture
        def make(self): return lambda: MySurrogate(...)     # a new one, not fitted, each time
"""

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from flowscout.errors import FlowscoutError, LabelError, ShapeError
from flowscout.surrogates.diagnostics import spearman
from flowscout.surrogates.protocol import Surrogate

SCORES = ("rmse", "nlpd", "coverage90", "r2", "spearman")
N = 40


class SurrogateContract:
    """Test one surrogate against `flowscout.surrogates.Surrogate`.

    Subclass it and provide the fixture `make`. The features are category codes, 0 to 3 in 6 columns; override
    `features` where the surrogate wants others. Fits are on at most 40 labels: give it a short training.
    """

    @pytest.fixture
    def make(self) -> Callable[[], Surrogate]:
        """Return a function that makes the surrogate under test, not fitted."""
        raise NotImplementedError("Provide a fixture `make` that returns a function that makes the surrogate.")

    def features(self, n: int, seed: int) -> Tensor:
        """Return features of `n` objects, `n x d`, drawn by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(4, (n, 6), generator=generator).to(torch.float64)

    def labels(self, X: Tensor) -> Tensor:
        """Return labels, `n x 1`, that a surrogate can learn from `X`, `n x d`, with a little noise."""
        noise = torch.randn(len(X), generator=torch.Generator().manual_seed(1), dtype=X.dtype)
        return (X[:, 0] - 0.5 * X[:, 1] + 0.05 * noise).unsqueeze(-1)

    @pytest.fixture
    def X(self) -> Tensor:  # noqa: N802
        """Return the features that the surrogate is fitted to."""
        return self.features(N, 0)

    @pytest.fixture
    def new(self) -> Tensor:
        """Return features that it was not fitted to."""
        return self.features(9, 2)

    @pytest.fixture
    def fitted(self, make: Callable[[], Surrogate], X: Tensor) -> Surrogate:
        """Return the surrogate, fitted to `X` and its labels."""
        surrogate = make()
        surrogate.fit(X, self.labels(X))
        return surrogate

    def test_predictions_have_the_promised_shapes(self, fitted: Surrogate, new: Tensor) -> None:
        mean, sd = fitted.mean_sd(new)
        posterior: Any = fitted.posterior(new)
        draws = fitted.sample(new, 3, generator=torch.Generator().manual_seed(0))
        assert mean.shape == sd.shape == (9,)
        assert posterior.mean.shape == posterior.variance.shape == (9, 1)
        assert posterior.rsample(torch.Size([4])).shape == (4, 9, 1)
        assert draws.shape == (3, 9)
        for tensor in (mean, sd, posterior.mean, posterior.variance, draws):
            assert tensor.dtype == torch.float64
            assert not tensor.requires_grad
            assert bool(tensor.isfinite().all())
        assert bool((sd > 0.0).all())

    def test_one_object_is_a_call_of_one_row(self, fitted: Surrogate, new: Tensor) -> None:
        assert fitted.mean_sd(new[:1])[0].shape == (1,)
        posterior: Any = fitted.posterior(new[:1])
        assert posterior.mean.shape == (1, 1)
        assert fitted.sample(new[:1], 2, generator=torch.Generator().manual_seed(0)).shape == (2, 1)

    def test_posterior_has_the_marginals_of_mean_sd(self, fitted: Surrogate, new: Tensor) -> None:
        mean, sd = fitted.mean_sd(new)
        posterior: Any = fitted.posterior(new)
        # 1e-8 of the label's sd, about 1: two orders of the same linear solves.
        torch.testing.assert_close(posterior.mean.squeeze(-1), mean, rtol=0, atol=1e-8)
        torch.testing.assert_close(posterior.variance.squeeze(-1), sd.square(), rtol=0, atol=1e-8)

    def test_draws_have_the_moments_of_the_posterior(self, fitted: Surrogate, new: Tensor) -> None:
        draws = fitted.sample(new, 4000, generator=torch.Generator().manual_seed(0))
        mean, sd = fitted.mean_sd(new)
        # 5 standard errors of 4,000 draws; an ensemble's sd counts one member less than its draws.
        assert bool(((draws.mean(0) - mean).abs() < 5 * sd / 4000**0.5).all())
        ratio = draws.std(0) / sd
        assert bool(((ratio - 1.0).abs() < 0.15).all())

    def test_draws_follow_the_generator_and_nothing_else(self, fitted: Surrogate, new: Tensor) -> None:
        torch.manual_seed(1)
        one = fitted.sample(new, 5, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(2)
        assert torch.equal(one, fitted.sample(new, 5, generator=torch.Generator().manual_seed(3)))

    def test_an_object_may_be_asked_for_twice_in_a_call(self, fitted: Surrogate, X: Tensor) -> None:
        twice = torch.cat([X[:4], X[:4]])
        posterior: Any = fitted.posterior(twice)
        assert posterior.variance.shape == (8, 1)
        draws = fitted.sample(twice, 3, generator=torch.Generator().manual_seed(0))
        # The jitter of a Cholesky factor, at most 1e-4 of the labels' variance, moves one draw off the other.
        torch.testing.assert_close(draws[:, :4], draws[:, 4:], rtol=0, atol=0.05)

    def test_it_learns(self, fitted: Surrogate, X: Tensor) -> None:
        assert _agreement(fitted, X, self.labels(X)) > 0.8

    def test_copy_keeps_its_predictions_when_the_original_is_fitted_again(
        self, fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        kept, before = copy(fitted), fitted.mean_sd(new)
        fitted.fit(X[:-1], -self.labels(X)[:-1])
        assert not torch.equal(fitted.mean_sd(new)[0], before[0])
        assert _same(kept.mean_sd(new), before)

    def test_copy_keeps_its_predictions_when_another_state_is_loaded(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        other = make()
        other.fit(X, -self.labels(X))
        kept, before = copy(fitted), fitted.mean_sd(new)
        fitted.load_state_dict(other.state_dict(), X, -self.labels(X))
        assert _same(fitted.mean_sd(new), other.mean_sd(new))
        assert _same(kept.mean_sd(new), before)

    def test_same_data_give_the_same_fit_whatever_the_random_state(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        torch.manual_seed(12)
        again = make()
        again.fit(X, self.labels(X))
        assert _same(again.mean_sd(new), fitted.mean_sd(new))
        fitted.fit(X, self.labels(X))
        assert _same(again.mean_sd(new), fitted.mean_sd(new))

    def test_global_random_state_is_left_as_it_was(
        self, make: Callable[[], Surrogate], X: Tensor, new: Tensor
    ) -> None:
        before = torch.get_rng_state()
        surrogate = make()
        surrogate.fit(X, self.labels(X))
        surrogate.mean_sd(new)
        surrogate.sample(new, 2, generator=torch.Generator().manual_seed(0))
        surrogate.diagnostics()
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_prediction_does_not_depend_on_the_others_of_the_call(self, fitted: Surrogate) -> None:
        many = self.features(5000, 7)
        rows = torch.tensor([0, 1, 511, 512, 2047, 2048, 4095, 4096, 4999])
        for whole, part in zip(fitted.mean_sd(many), fitted.mean_sd(many[rows]), strict=True):
            # 1e-9 of the label's sd, about 1: float64 sums of another order, through a root for the sd.
            torch.testing.assert_close(whole[rows], part, rtol=0, atol=1e-9)

    def test_data_changed_after_the_fit_change_nothing(
        self, make: Callable[[], Surrogate], X: Tensor, new: Tensor
    ) -> None:
        data, labels = X.clone(), self.labels(X)
        surrogate = make()
        surrogate.fit(data, labels)
        assert torch.equal(data, X)
        assert torch.equal(labels, self.labels(X))
        before, scores = surrogate.mean_sd(new), surrogate.diagnostics()
        data.zero_()
        labels.zero_()
        assert _same(surrogate.mean_sd(new), before)
        assert surrogate.diagnostics() == scores

    def test_rebuilt_surrogate_is_the_same_to_the_last_bit(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        rebuilt = make()
        rebuilt.load_state_dict(fitted.state_dict(), X, self.labels(X))
        assert _same(rebuilt.mean_sd(new), fitted.mean_sd(new))
        draws = [s.sample(new, 4, generator=torch.Generator().manual_seed(5)) for s in (rebuilt, fitted)]
        assert torch.equal(*draws)
        assert rebuilt.diagnostics() == fitted.diagnostics()
        again, state = rebuilt.state_dict(), fitted.state_dict()
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)

    def test_state_holds_tensors_of_its_own(self, fitted: Surrogate, new: Tensor) -> None:
        before = fitted.mean_sd(new)
        for value in fitted.state_dict().values():
            assert isinstance(value, Tensor)
            assert not value.requires_grad
            value.zero_()
        assert _same(fitted.mean_sd(new), before)

    def test_loaded_state_may_be_changed_afterwards(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        state, rebuilt = fitted.state_dict(), make()
        rebuilt.load_state_dict(state, X, self.labels(X))
        for value in state.values():
            value.zero_()
        assert _same(rebuilt.mean_sd(new), fitted.mean_sd(new))

    def test_state_of_other_data_is_refused(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor
    ) -> None:
        surrogate = make()
        with pytest.raises(ShapeError) as caught:
            surrogate.load_state_dict(fitted.state_dict(), X[:-1], self.labels(X)[:-1])
        assert_three_parts(caught.value)
        with pytest.raises(ShapeError) as caught:
            surrogate.load_state_dict({}, X, self.labels(X))
        assert_three_parts(caught.value)
        with pytest.raises(FlowscoutError):  # what was refused left nothing behind
            surrogate.mean_sd(new)

    def test_asked_before_a_fit_it_says_so(self, make: Callable[[], Surrogate], new: Tensor) -> None:
        surrogate = make()
        generator = torch.Generator().manual_seed(0)
        for ask in (
            lambda: surrogate.mean_sd(new),
            lambda: surrogate.posterior(new),
            lambda: surrogate.sample(new, 2, generator=generator),
            surrogate.state_dict,
            surrogate.diagnostics,
        ):
            with pytest.raises(FlowscoutError) as caught:
                ask()
            assert_three_parts(caught.value)

    @pytest.mark.parametrize("wrong", ["vector_y", "short_y", "float32_x", "float32_y", "vector_x", "no_rows"])
    def test_wrong_data_are_refused(self, make: Callable[[], Surrogate], X: Tensor, wrong: str) -> None:
        Y = self.labels(X)
        data = {
            "vector_y": (X, Y.squeeze(-1)),
            "short_y": (X, Y[:-1]),
            "float32_x": (X.float(), Y),
            "float32_y": (X, Y.float()),
            "vector_x": (X[0], Y[:1]),
            "no_rows": (X[:0], Y[:0]),
        }[wrong]
        with pytest.raises(ShapeError) as caught:
            make().fit(*data)
        assert_three_parts(caught.value)

    @pytest.mark.parametrize("wrong", ["narrow", "float32", "vector", "no_rows", "nan"])
    def test_wrong_points_are_refused(self, fitted: Surrogate, new: Tensor, wrong: str) -> None:
        points = {
            "narrow": new[:, :-1],
            "float32": new.float(),
            "vector": new[0],
            "no_rows": new[:0],
            "nan": torch.where(torch.arange(9).unsqueeze(-1) == 4, torch.nan, new),
        }[wrong]
        for ask in (
            fitted.mean_sd,
            fitted.posterior,
            lambda X: fitted.sample(X, 2, generator=torch.Generator().manual_seed(0)),
        ):
            with pytest.raises(ShapeError) as caught:
                ask(points)
            assert_three_parts(caught.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_label_that_is_not_finite_is_refused_by_its_row(
        self, make: Callable[[], Surrogate], fitted: Surrogate, X: Tensor, new: Tensor, value: float
    ) -> None:
        Y, before = self.labels(X), fitted.mean_sd(new)
        Y[17] = value
        with pytest.raises(LabelError, match="row 17") as caught:
            fitted.fit(X, Y)
        assert_three_parts(caught.value)
        assert _same(fitted.mean_sd(new), before)
        with pytest.raises(LabelError, match="row 17"):
            make().load_state_dict(fitted.state_dict(), X, Y)

    def test_labels_whose_variance_overflows_are_refused(self, make: Callable[[], Surrogate], X: Tensor) -> None:
        with pytest.raises(LabelError) as caught:
            make().fit(X, 1e200 * self.labels(X))
        assert_three_parts(caught.value)

    @pytest.mark.parametrize("value", [0.0, 3.5, -1e12])
    def test_constant_labels_are_predicted(
        self, make: Callable[[], Surrogate], X: Tensor, new: Tensor, value: float
    ) -> None:
        surrogate = make()
        surrogate.fit(X, torch.full((N, 1), value, dtype=torch.float64))
        mean, sd = surrogate.mean_sd(new)
        # The constant is all there is to learn; an ensemble's networks come near it, within their own scale of 1.
        torch.testing.assert_close(mean, torch.full_like(mean, value), rtol=1e-6, atol=0.5)
        assert bool(sd.isfinite().all() and (sd > 0.0).all())
        assert_finite(surrogate.diagnostics(), N)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_few_labels_are_enough(self, make: Callable[[], Surrogate], X: Tensor, new: Tensor, n: int) -> None:
        surrogate = make()
        surrogate.fit(X[:n], self.labels(X)[:n])
        mean, sd = surrogate.mean_sd(new)
        assert bool(mean.isfinite().all() and sd.isfinite().all() and (sd > 0.0).all())
        assert_finite(surrogate.diagnostics(), n)

    def test_duplicates_with_conflicting_values_are_averaged(
        self, make: Callable[[], Surrogate], X: Tensor
    ) -> None:
        objects = X[:10]
        Y = self.labels(objects)
        surrogate = make()
        surrogate.fit(objects.repeat(4, 1), torch.cat([Y - 0.5, Y + 0.5, Y - 0.5, Y + 0.5]))
        mean, sd = surrogate.mean_sd(objects)
        assert bool(mean.isfinite().all() and sd.isfinite().all() and (sd > 0.0).all())
        lowest, highest = Y.min() - 0.5, Y.max() + 0.5
        assert bool(((mean > lowest) & (mean < highest)).all())
        # Copies disagree by 1: leaving one out cannot predict it to better than the 0.5 from their middle.
        assert surrogate.diagnostics()["loo_rmse"] > 0.4

    @pytest.mark.parametrize(("factor", "offset"), [(1e12, 0.0), (1.0, 1e12), (1e-12, 0.0)])
    def test_labels_of_any_size_are_learned(
        self, make: Callable[[], Surrogate], X: Tensor, new: Tensor, factor: float, offset: float
    ) -> None:
        Y = factor * self.labels(X) + offset
        surrogate = make()
        surrogate.fit(X, Y)
        mean, sd = surrogate.mean_sd(new)
        assert bool(mean.isfinite().all() and sd.isfinite().all() and (sd > 0.0).all())
        assert bool((sd < 3.0 * Y.std()).all())
        assert _agreement(surrogate, X, Y) > 0.8
        assert_finite(surrogate.diagnostics(), N)

    def test_diagnostics_are_finite_and_complete(self, fitted: Surrogate) -> None:
        found = fitted.diagnostics()
        assert_finite(found, N)
        assert found["noise_sd"] >= 0.0
        assert {f"loo_{name}" for name in SCORES} <= found.keys()
        assert 0.0 <= found["loo_coverage90"] <= 1.0
        assert found["loo_spearman"] > 0.5
        assert fitted.diagnostics() == found


def assert_three_parts(error: Exception) -> None:
    """Assert that a message says what came, what was expected and, in a sentence of its own, what to do next."""
    came, expected, rest = str(error).partition(", expected ")
    assert came, error
    assert expected, f"nothing was expected: {error}"
    sentence, stop, advice = rest.partition(". ")
    assert sentence, error
    assert stop, f"no advice: {error}"
    assert advice.endswith((".", ")")), f"not a sentence: {error}"


def assert_finite(diagnostics: dict[str, float], n: int) -> None:
    """Assert that every value of `diagnostics` is a finite float, and that it counts `n` labels."""
    assert all(isinstance(value, float) and math.isfinite(value) for value in diagnostics.values()), diagnostics
    assert diagnostics["n_labels"] == n


def _agreement(surrogate: Surrogate, X: Tensor, Y: Tensor) -> float:
    """Return the rank correlation of the labels with their predictions; 0 where one is constant."""
    return spearman(surrogate.mean_sd(X)[0], Y.squeeze(-1)) or 0.0


def _same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
