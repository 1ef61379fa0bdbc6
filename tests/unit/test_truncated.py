import math

import pytest
import torch

from flowscout.errors import LabelError
from flowscout.surrogates.truncated import interval_moments

INF = math.inf


def moments(lower, upper):
    found = interval_moments(
        torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64)
    )
    return [part.item() for part in found]


def by_trapezoids(lower, upper):
    """Return log mass, mean and variance by two million trapezoids around the interval's highest point."""
    peak = min(max(0.0, lower), upper)
    reach = 80.0 / (abs(peak) + math.sqrt(peak**2 + 80.0))
    left = min(peak - lower, reach if peak <= 0.0 else 0.0)
    right = min(upper - peak, reach if peak >= 0.0 else 0.0)
    t = torch.linspace(-left, right, 2_000_001, dtype=torch.float64)
    density = torch.exp(-t * peak - 0.5 * t.square())
    mass = torch.trapezoid(density, t)
    mean = torch.trapezoid(density * t, t) / mass
    variance = torch.trapezoid(density * (t - mean).square(), t) / mass
    log_mass = mass.log() - 0.5 * peak**2 - 0.5 * math.log(2 * math.pi)
    return [log_mass.item(), peak + mean.item(), variance.item()]


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (-INF, INF),
        (0.0, INF),
        (-INF, 0.0),
        (-1.0, 2.0),
        (-0.3, -0.2),
        (5.0, INF),
        (-INF, -40.0),
        (30.0, 30.1),
        (-1e3, INF),
        (-INF, -1e3),
        (1e3, INF),
        (1e3, 1e3 + 1e-4),
        (-1e3, -999.0),
        (-1e3, 1e3),
    ],
)
def test_moments_are_those_of_brute_quadrature(lower, upper):
    # 1e-9: two million trapezoids of a smooth density; the quadrature itself is good to 1e-13.
    for found, expected in zip(moments(lower, upper), by_trapezoids(lower, upper), strict=True):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 if lower == -upper else 1e-14)


def test_moments_are_known_in_closed_form():
    log_mass, mean, variance = moments(0.0, INF)
    assert log_mass == pytest.approx(math.log(0.5), rel=1e-12)
    assert mean == pytest.approx(math.sqrt(2 / math.pi), rel=1e-12)
    assert variance == pytest.approx(1 - 2 / math.pi, rel=1e-12)


@pytest.mark.parametrize("a", [50.0, 1e3, 1e6])
def test_far_in_the_tail_the_excess_follows_its_series(a):
    _, mean, variance = moments(a, INF)
    _, mirrored, same = moments(-INF, -a)
    # Next terms of the series of 1 / a^2: 10 and 50, which at a = 50 are 2e-6 and 8e-6 of it.
    assert (mean - a) * a == pytest.approx(1 - 2 / a**2, rel=1e-5 if a < 1e3 else 1e-7, abs=a * a * 2e-16)
    assert variance * a**2 == pytest.approx(1 - 6 / a**2, rel=1e-5 if a < 1e3 else 1e-9)
    assert (mirrored, same) == (pytest.approx(-mean, rel=1e-15), pytest.approx(variance, rel=1e-12))


def test_log_mass_is_log_ndtr():
    upper = torch.linspace(-1000.0, 30.0, 301, dtype=torch.float64)
    found = interval_moments(torch.full_like(upper, -INF), upper).log_mass
    # log_ndtr is good to about 1e-14; near 30 the mass is 1 and its logarithm rounding.
    assert torch.allclose(found, torch.special.log_ndtr(upper), rtol=1e-12, atol=1e-13)


def test_an_interval_as_narrow_as_rounding_is_uniform():
    log_mass, mean, variance = moments(1.0, 1.0 + 1e-12)
    width = (1.0 + 1e-12) - 1.0
    assert 1.0 <= mean <= 1.0 + 1e-12
    assert variance == pytest.approx(width**2 / 12, rel=1e-9)
    assert log_mass == pytest.approx(math.log(width) - 0.5 - 0.5 * math.log(2 * math.pi), rel=1e-9)


@pytest.mark.parametrize(("lower", "upper"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bounds_out_of_order_are_refused(lower, upper):
    with pytest.raises(LabelError, match="place 0"):
        moments(lower, upper)
