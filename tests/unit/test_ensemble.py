import pytest
import torch
from botorch.posteriors.ensemble import EnsemblePosterior

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates import score_predictions
from flowscout.surrogates.ensemble import DeepEnsemble
from flowscout.surrogates.ensemble_training import TrainingOptions, bootstrap, forward, train_members

SHORT = TrainingOptions(width=16, max_steps=100)


def data(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(4, (n, 5), generator=generator).to(torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return X, X[:, :1] * (X[:, 1:2] == 2) + 0.1 * noise


def test_forward_of_the_batch_is_that_of_each_network():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 8), (3, 1, 8), (3, 8, 8), (3, 1, 8), (3, 8, 1), (3, 1, 1)]
    weights = tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    X = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    for k in range(3):
        w = [weight[k] for weight in weights]
        hidden = torch.nn.functional.silu(X @ w[0] + w[1])
        expected = (torch.nn.functional.silu(hidden @ w[2] + w[3]) @ w[4] + w[5]).squeeze(-1)
        # 1e-12: the same sums in another order.
        torch.testing.assert_close(forward(weights, X)[k], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(forward(weights, X.expand(3, 7, 5))[k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [60, 300])  # whole batches and minibatches
def test_members_trained_together_are_those_trained_one_by_one(n):
    X, Y = data(n)
    labels = (Y.squeeze(-1) - Y.mean()) / Y.std()
    rows = bootstrap(n, 4, seed=3)
    # float64: the two differ in the order of sums alone, and Adam would blow float32's rounding up.
    options = TrainingOptions(width=16, max_steps=200, patience=4)
    together = train_members(X, labels, rows, options=options, seed=3)
    for k in range(4):
        alone = train_members(X, labels, rows[k : k + 1], options=options, seed=3, first=k)
        for a, b in zip(alone, together, strict=True):
            # 1e-6: rounding of 1e-16 a step, which Adam divides by gradients near zero.
            torch.testing.assert_close(a[0], b[k], rtol=0, atol=1e-6)


def test_a_member_does_not_depend_on_how_many_there_are():
    X, Y = data(50)
    few, more = (DeepEnsemble(levels=4, members=members, options=SHORT) for members in (3, 5))
    few.fit(X, Y)
    more.fit(X, Y)
    # 1e-3: float32 training of the same member in batches of 3 and of 5.
    torch.testing.assert_close(few.posterior(X).values[:3], more.posterior(X).values[:3], rtol=0, atol=1e-3)


def test_training_stops_early_where_the_labels_left_out_say_so():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(100, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(100, generator=generator, dtype=torch.float64)
    rows = bootstrap(100, 3, seed=0)
    short = train_members(X, noise, rows, options=TrainingOptions(width=16, patience=3), seed=0)
    endless = train_members(
        X, noise, rows, options=TrainingOptions(width=16, patience=10**6, max_steps=400), seed=0
    )
    # Labels of noise alone have nothing to learn: early or late, the best look is the first few steps'.
    for a, b in zip(short, endless, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert float(forward(short, X).var()) < 0.5 * float(noise.var())


def test_posterior_is_botorch_and_a_draw_is_a_member():
    X, Y = data(50)
    surrogate = DeepEnsemble(levels=4, members=4, options=SHORT)
    surrogate.fit(X, Y)
    posterior = surrogate.posterior(X)
    assert isinstance(posterior, EnsemblePosterior)
    assert posterior.values.shape == (4, 50, 1)
    mean, sd = surrogate.mean_sd(X)
    values = posterior.values.squeeze(-1)
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(sd, values.std(0))
    draws = surrogate.sample(X, 30, generator=torch.Generator().manual_seed(0))
    assert all(any(torch.equal(draw, value) for value in values) for draw in draws)
    again = surrogate.sample(X[3:5], 30, generator=torch.Generator().manual_seed(0))
    # 1e-12: one member's sums, in a call of another size.
    torch.testing.assert_close(again, draws[:, 3:5], rtol=0, atol=1e-12)


def test_each_label_is_scored_by_members_that_were_not_given_it():
    X, Y = data(40)
    surrogate = DeepEnsemble(levels=4, members=6, options=SHORT, seed=2)
    surrogate.fit(X, Y)
    values, rows = surrogate.posterior(X).values.squeeze(-1), bootstrap(40, 6, seed=2)
    means, variances, kept = [], [], []
    for i in range(40):
        others = [values[k, i] for k in range(6) if i not in rows[k].tolist()]
        if len(others) >= 2:
            kept.append(i)
            means.append(torch.stack(others).mean())
            variances.append(torch.stack(others).var())
    found = surrogate.diagnostics()
    assert found["n_scored"] == len(kept)
    error = Y.squeeze(-1)[kept] - torch.stack(means)
    noise = error.square().mean() - torch.stack(variances).mean()
    assert found["noise_sd"] == pytest.approx(noise.sqrt().item(), rel=1e-9)
    scores = score_predictions(
        torch.stack(means), (torch.stack(variances) + noise).sqrt(), Y.squeeze(-1)[kept]
    ).as_dict("loo_")
    assert {name: found[name] for name in scores} == pytest.approx(scores, rel=1e-9)


def test_features_that_are_numbers_are_standardised():
    X, Y = data(60)
    plain, moved = DeepEnsemble(options=SHORT), DeepEnsemble(options=SHORT)
    plain.fit(X, Y)
    moved.fit(1e6 + 1e3 * X, Y)
    # 1e-3: float32 training on the same inputs up to float64 rounding.
    torch.testing.assert_close(moved.mean_sd(1e6 + 1e3 * X)[0], plain.mean_sd(X)[0], rtol=0, atol=1e-3)


def test_many_features_are_no_obstacle():
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(4, (12, 10_000), generator=generator).to(torch.float64)
    surrogate = DeepEnsemble(levels=4, members=2, options=TrainingOptions(width=8, max_steps=20))
    surrogate.fit(X, X[:, :1])
    assert bool(surrogate.mean_sd(X)[0].isfinite().all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_predicts_what_the_cpu_predicts():
    X, Y = data(60)
    there = DeepEnsemble(levels=4, options=SHORT, device="cuda")
    there.fit(X, Y)
    here = DeepEnsemble(levels=4, options=SHORT, device="cpu")
    here.load_state_dict(there.state_dict(), X, Y)
    for a, b in zip(here.mean_sd(X), there.mean_sd(X), strict=True):
        assert b.device == X.device
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)  # float64 sums of another order


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="members is 1"):
        DeepEnsemble(members=1)
    with pytest.raises(ConfigError, match="levels is 0"):
        DeepEnsemble(levels=0)
    X, Y = data(20)
    one, other = DeepEnsemble(levels=4, options=SHORT), DeepEnsemble(levels=4, options=SHORT, members=4)
    one.fit(X, Y)
    with pytest.raises(ShapeError, match=r"weights.0 has shape \(16, 20, 16\)"):
        other.load_state_dict(one.state_dict(), X, Y)
