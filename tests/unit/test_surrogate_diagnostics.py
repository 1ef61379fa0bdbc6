import math

import pytest
import torch
from scipy import stats

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates import ExactGP, leave_one_out, score_predictions, spearman


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_leave_one_out_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    n = 25
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    covariance = root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64)
    residual = torch.randn(n, generator=generator, dtype=torch.float64)
    error, sd = leave_one_out(torch.linalg.cholesky(covariance), residual)
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        weights = torch.linalg.solve(covariance[rest][:, rest], covariance[rest, i])
        assert error[i] == pytest.approx((residual[i] - weights @ residual[rest]).item(), abs=1e-9)
        assert sd[i] == pytest.approx(math.sqrt(covariance[i, i] - weights @ covariance[rest, i]), abs=1e-9)


def test_diagnostics_equal_refits_without_one_label():
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(3, (14, 5), generator=generator).to(torch.float64)
    # Noise, because predictions that tie exactly would be ranked by rounding.
    noise = torch.randn(14, 1, generator=generator, dtype=torch.float64)
    Y = (X[:, :1] + 0.5 * X[:, 1:2]) * 10.0 + noise
    surrogate = ExactGP()
    surrogate.fit(X, Y)
    diagnostics = surrogate.diagnostics()
    state = surrogate.state_dict()
    means, sds = [], []
    for i in range(14):
        rest = [j for j in range(14) if j != i]
        without = ExactGP()
        without.load_state_dict({**state, "n_labels": torch.tensor(13)}, X[rest], Y[rest])
        mean, sd = without.mean_sd(X[i : i + 1])
        means.append(mean)
        sds.append((sd.square() + diagnostics["noise_sd"] ** 2).sqrt())
    expected = score_predictions(torch.cat(means), torch.cat(sds), Y.squeeze(-1)).as_dict("loo_")
    for name, value in expected.items():
        assert diagnostics[name] == pytest.approx(value, rel=1e-6), name


def test_scores_of_a_batch_by_hand():
    scores = score_predictions(vector(0.0, 1.0, 2.0), vector(1.0, 1.0, 0.5), vector(0.0, 2.0, 4.0))
    assert scores.n == 3
    assert scores.rmse == pytest.approx(math.sqrt(5 / 3))
    assert scores.r2 == pytest.approx(1 - 5 / 8)
    assert scores.spearman == pytest.approx(1.0)
    assert scores.coverage90 == pytest.approx(2 / 3)
    expected = -stats.norm.logpdf([0, 2, 4], [0, 1, 2], [1, 1, 0.5]).mean()
    assert scores.nlpd == pytest.approx(expected)


def test_scores_the_data_do_not_define_are_left_out():
    scores = score_predictions(vector(1.0), vector(1.0), vector(2.0))
    assert scores.r2 is None
    assert set(scores.as_dict("x_")) == {"x_rmse", "x_nlpd", "x_coverage90"}


def test_spearman_shares_ranks_between_ties():
    a, b = vector(1, 2, 2, 3, 3, 3, 0), vector(5, 1, 1, 9, 2, 2, 2)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(a, torch.ones_like(a)) is None


def test_normal_predictions_cover_nine_in_ten():
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = score_predictions(torch.zeros_like(z), torch.ones_like(z), z)
    # 5 standard errors of a share of 0.9 among 20,000.
    assert scores.coverage90 == pytest.approx(0.9, abs=5 * math.sqrt(0.09 / 20_000))


def test_wrong_vectors_are_refused():
    with pytest.raises(ShapeError, match="one length"):
        score_predictions(vector(1.0), vector(1.0), vector(1.0, 2.0))
    with pytest.raises(ShapeError, match="one length"):
        score_predictions(vector(), vector(), vector())
    with pytest.raises(LabelError, match="row 1"):
        score_predictions(vector(1.0, 2.0), vector(1.0, 1.0), vector(1.0, float("nan")))
