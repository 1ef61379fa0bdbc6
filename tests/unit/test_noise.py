import math

import pytest
import torch

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates.noise import pool_replicates

NAN = math.nan


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_with_every_sem_the_mean_is_weighted_by_precision():
    pooled = pool_replicates(["b", "a", "b"], vector(1.0, 5.0, 1.1), vector(0.1, 0.5, 0.2))
    assert pooled.keys == ("b", "a")
    assert pooled.rows.tolist() == [0, 1]
    # Weights 100 and 25; chi^2 = 0.2 is below 1, so the errors stand.
    assert torch.allclose(pooled.means, vector((100 * 1.0 + 25 * 1.1) / 125, 5.0), rtol=1e-14)
    assert torch.allclose(pooled.variances, vector(1 / 125, 0.25), rtol=1e-14)
    assert pooled.within_variance is None


def test_replicates_that_disagree_widen_their_error():
    pooled = pool_replicates(["a", "a"], vector(1.0, 5.0), vector(0.1, 0.1))
    # chi^2 = 100 (2^2 + 2^2) = 800 with one degree of freedom; 800 / 200 is the variance of a mean of 1 and 5.
    assert pooled.means.item() == pytest.approx(3.0)
    assert pooled.variances.item() == pytest.approx(4.0)


def test_without_sem_the_noise_is_shared_and_estimated_from_the_replicates():
    pooled = pool_replicates(["a", "a", "b", "c", "c", "c"], vector(1.0, 3.0, 7.0, 4.0, 5.0, 6.0))
    assert torch.equal(pooled.means, vector(2.0, 7.0, 5.0))
    assert torch.equal(pooled.counts, vector(2.0, 1.0, 3.0))
    assert bool(pooled.variances.isnan().all())
    # (2 + 0 + 2) over (1 + 0 + 2) degrees of freedom.
    assert pooled.within_variance == pytest.approx(4.0 / 3.0)
    assert torch.equal(pooled.noise(0.6), vector(0.3, 0.6, 0.6 / 3))


def test_a_mean_of_several_readings_counts_as_several():
    pooled = pool_replicates(["a", "a"], vector(1.0, 4.0), n=torch.tensor([3, 1]))
    assert pooled.means.item() == pytest.approx(1.75)
    assert pooled.counts.item() == 4.0
    # The variance of one reading: 3 (0.75)^2 + (2.25)^2 over one degree of freedom.
    assert pooled.within_variance == pytest.approx(3 * 0.75**2 + 2.25**2)


def test_estimated_noise_is_that_of_one_reading():
    generator = torch.Generator().manual_seed(0)
    keys = [str(i // 3) for i in range(6_000)]
    n = torch.randint(1, 5, (6_000,), generator=generator).double()
    values = torch.arange(6_000).div(3).floor().double() + 0.7 * torch.randn(6_000, generator=generator) / n.sqrt()
    # 4,000 degrees of freedom leave 2% of a variance.
    assert pool_replicates(keys, values, n=n).within_variance == pytest.approx(0.49, rel=0.06)


def test_one_missing_sem_makes_the_object_of_the_shared_kind():
    pooled = pool_replicates(["a", "a", "b"], vector(1.0, 3.0, 2.0), vector(0.1, NAN, 0.3))
    assert torch.equal(pooled.means, vector(2.0, 2.0))
    assert torch.allclose(pooled.noise(0.5), vector(0.25, 0.09))


def test_labels_far_from_zero_keep_their_digits():
    pooled = pool_replicates(["a", "a"], vector(1e12, 1e12 + 1.0), vector(0.1, 0.1))
    assert pooled.means.item() - 1e12 == 0.5
    assert pooled.variances.item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("values", "sem", "n"),
    [
        (vector(0.0, math.inf), None, None),
        (vector(0.0, 1.0), vector(0.1, 0.0), None),
        (vector(0.0, 1.0), vector(0.1, math.inf), None),
        (vector(0.0, 1.0), None, vector(1.0, 0.0)),
    ],
)
def test_impossible_measurements_are_named(values, sem, n):
    with pytest.raises(LabelError, match="row 1 \\('b'\\)"):
        pool_replicates(["a", "b"], values, sem, n)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ShapeError, match="2 keys"):
        pool_replicates(["a", "b"], vector(1.0))
    with pytest.raises(ShapeError, match="0 keys"):
        pool_replicates([], vector())
