import numpy as np
import pytest
from scipy import stats

from sotune.errors import ConfigError, DataError
from sotune.evaluation.paired import adjust_holm, compare_paired, mcnemar, minimum_detectable_difference


def scores(*runs):
    """Turns (first, second, count) runs into the two models' scores by prompt."""
    pairs = [(a, b) for a, b, count in runs for _ in range(count)]
    return {f"p{i}": a for i, (a, _) in enumerate(pairs)}, {f"p{i}": b for i, (_, b) in enumerate(pairs)}


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (0, 6), (3, 14), (400, 460), (9, 8)])
def test_mcnemar_is_a_fair_coin(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(c, b) == mcnemar(b, c)


def test_mcnemar_keeps_its_level():
    for n in range(1, 200):
        rejected = [k for k in range(n + 1) if mcnemar(k, n - k) <= 0.05]
        assert stats.binom.pmf(rejected, n, 0.5).sum() <= 0.05 + 1e-12


def test_counts_and_sign():
    result = compare_paired(
        *scores((1, 1, 40), (1, 0, 12), (0, 1, 2), (0, 0, 46), (None, 1, 3), (0, None, 1)), confidence=0.95
    )
    assert (result.n, result.n_unscored, result.only_first, result.only_second) == (100, 4, 12, 2)
    assert result.difference == pytest.approx(0.1)
    assert 0 < result.low < 0.1 < result.high
    assert result.p_value == mcnemar(12, 2)


def test_difference_interval_by_hand():
    # Rates 48/54 in [.7781, .9481] and 38/54 in [.5717, .8086]; phi = (36·4 − 12·2 − 27) / √(48·6·38·16) = .2222.
    result = compare_paired(*scores((1, 1, 36), (1, 0, 12), (0, 1, 2), (0, 0, 4)), confidence=0.95)
    assert (result.low, result.high) == pytest.approx((0.0506, 0.3173), abs=1e-4)


@pytest.mark.parametrize(
    "shares", [(0.4, 0.1, 0.1, 0.4), (0.1, 0.3, 0.05, 0.55), (0.0, 0.6, 0.0, 0.4), (0.9, 0.04, 0.01, 0.05)]
)
def test_difference_coverage_by_simulation(shares):
    rng, truth, hits, n_runs = np.random.default_rng(0), shares[1] - shares[2], 0, 600
    for both, first, second, neither in rng.multinomial(100, shares, size=n_runs):
        result = compare_paired(*scores((1, 1, both), (1, 0, first), (0, 1, second), (0, 0, neither)), confidence=0.95)
        hits += result.low <= truth <= result.high
    assert hits / n_runs >= 0.93


def test_holm():
    assert adjust_holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert adjust_holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(("rate", "n"), [(0.1, 100), (0.5, 200), (0.02, 500), (0.9, 150)])
def test_minimum_detectable_difference_has_its_power(rate, n):
    rise = minimum_detectable_difference(rate, n, power=0.8, confidence=0.95)
    other = rate + rise if rate <= 0.5 else rate - rise
    rng = np.random.default_rng(0)
    a, b = rng.binomial(n, rate, 20_000) / n, rng.binomial(n, other, 20_000) / n
    pooled = (a + b) / 2
    z = np.abs(a - b) / np.sqrt(2 * pooled * (1 - pooled) / n + 1e-12)
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.04)


def test_minimum_detectable_difference_falls_with_n():
    found = [minimum_detectable_difference(0.05, n, power=0.8, confidence=0.95) for n in (50, 200, 1000)]
    assert found == sorted(found, reverse=True)
    assert minimum_detectable_difference(0.5, 2, power=0.8, confidence=0.95) == 1.0


def test_errors():
    with pytest.raises(DataError, match="'b' is on one side only"):
        compare_paired({"a": 1.0}, {"a": 1.0, "b": 0.0}, confidence=0.95)
    with pytest.raises(DataError, match="none of 1 prompts was scored for both"):
        compare_paired({"a": None}, {"a": 1.0}, confidence=0.95)
    with pytest.raises(DataError, match="scores of 0 or 1"):
        compare_paired({"a": 0.5}, {"a": 1.0}, confidence=0.95)
    with pytest.raises(DataError, match="must not be negative. Got -1 and 2"):
        mcnemar(-1, 2)
    with pytest.raises(ConfigError, match="Got 0.1, 0, 0.8"):
        minimum_detectable_difference(0.1, 0, power=0.8, confidence=0.95)
