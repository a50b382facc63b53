import pytest
from scipy import stats
from scipy.special import betainc

from sotune.statistics.beta import beta_quantile, regularized_incomplete_beta

SHAPES = [(0.5, 0.5), (1, 1), (1, 30), (30, 1), (2.5, 7), (50, 60), (3, 99_998), (99_998, 3), (5e4, 5e4)]


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("x", [0.0, 1e-9, 1e-4, 0.03, 0.3, 0.4999, 0.5, 0.7, 0.999, 1.0])
def test_against_scipy(a, b, x):
    assert regularized_incomplete_beta(a, b, x) == pytest.approx(betainc(a, b, x), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975, 0.999])
def test_quantile_against_scipy(a, b, probability):
    assert beta_quantile(a, b, probability) == pytest.approx(stats.beta.ppf(probability, a, b), rel=1e-7, abs=1e-12)


def test_symmetry():
    left = regularized_incomplete_beta(3.2, 8.1, 0.27)
    assert left + regularized_incomplete_beta(8.1, 3.2, 0.73) == pytest.approx(1.0, abs=1e-13)
