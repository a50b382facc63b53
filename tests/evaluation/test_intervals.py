import numpy as np
import pytest
import torch
from scipy import stats

from sotune.errors import ConfigError, DataError
from sotune.evaluation.intervals import (
    FEW,
    Interval,
    amount_interval,
    clopper_pearson,
    mean_interval,
    mover_half_difference,
    rate_interval,
    wilson,
)

LEVEL = {"confidence": 0.95}
COUNTS = [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (50, 100), (97, 100), (400, 1000), (7, 100_000)]


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("rule", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")])
def test_against_scipy(successes, n, confidence, rule, method):
    interval = rule(successes, n, confidence=confidence)
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method=method)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1


def test_mirror_image():
    left, right = rate_interval(3, 50, **LEVEL), rate_interval(47, 50, **LEVEL)
    assert (left.low, left.high) == pytest.approx((1 - right.high, 1 - right.low))


@pytest.mark.parametrize("n", [12, 40, 100, 1000])
def test_the_exact_rule_wherever_few_are_expected(n):
    for successes in range(n + 1):
        method = rate_interval(successes, n, **LEVEL).method
        if min(successes, n - successes) < FEW:
            assert method == "clopper-pearson"
        if min(successes, n - successes) > 2 * FEW:
            assert method == "wilson"


@pytest.mark.parametrize("n", [1, 2, 5, 10, 20, 30, 50, 70, 100, 120, 150, 200, 500, 1000])
def test_rate_coverage_by_enumeration(n):
    """Exact coverage at its lowest points, which lie just beside the ends of the intervals."""
    counts = np.arange(n + 1)
    intervals = [rate_interval(int(k), n, **LEVEL) for k in counts]
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    rates = np.concatenate([end + shift for end in (low[1:], high[:-1]) for shift in (-1e-9, 1e-9)])
    covers = (low <= rates[:, None]) & (rates[:, None] <= high)
    coverage = (stats.binom.pmf(counts, n, rates[:, None]) * covers).sum(axis=1)
    assert coverage.min() >= 0.93


def beta_scores(a, b):
    return (lambda rng, n: rng.beta(a, b, n)), a / (a + b)


def graded(*shares):
    values = np.linspace(0, 1, len(shares))
    return (lambda rng, n: rng.choice(values, n, p=shares)), float(values @ shares)


DISTRIBUTIONS = {
    "uniform": beta_scores(1, 1),
    "skewed": beta_scores(0.3, 3),
    "two humps": beta_scores(0.5, 0.5),
    "five grades": graded(0.02, 0.03, 0.1, 0.25, 0.6),
    "nearly all best": graded(0.01, 0.01, 0.01, 0.07, 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [10, 30, 50, 200])
def test_mean_coverage_by_simulation(name, n):
    draw, mean = DISTRIBUTIONS[name]
    rng, generator, n_runs = np.random.default_rng(n), torch.Generator().manual_seed(n), 1000
    hits = 0
    for _ in range(n_runs):
        interval = mean_interval(list(draw(rng, n)), **LEVEL, n_resamples=400, generator=generator)
        hits += interval.low <= mean <= interval.high
    assert hits / n_runs >= 0.93


def test_mean_is_seeded_and_near_the_t_interval():
    scores = list(np.random.default_rng(0).beta(4, 3, 400))

    def interval(seed):
        return mean_interval(scores, **LEVEL, n_resamples=2000, generator=torch.Generator().manual_seed(seed))

    assert interval(1) == interval(1)
    assert interval(1) != interval(2)
    expected = stats.t.interval(0.95, 399, np.mean(scores), stats.sem(scores))
    assert (interval(1).low, interval(1).high) == pytest.approx(expected, abs=2e-3)
    assert interval(1).method == "bootstrap"


@pytest.mark.parametrize("scores", [[0.8] * 500, [0.2, 0.5, 0.9]])
def test_without_spread_or_numbers_the_mean_is_treated_as_a_rate(scores):
    interval = mean_interval(scores, **LEVEL, n_resamples=100, generator=torch.Generator())
    assert interval.method == "clopper-pearson"
    assert interval.low < np.mean(scores) < interval.high


@pytest.mark.parametrize(
    "rates", [(50, 50, 0.9, 0.05), (100, 60, 0.95, 0.5), (30, 30, 0.8, 0.2), (200, 100, 0.99, 0.01)]
)
def test_average_coverage_by_simulation(rates):
    n_utility, n_harm, utility, harm = rates
    rng, truth, n_runs = np.random.default_rng(0), (utility + 1 - harm) / 2, 3000
    of_utility = [rate_interval(k, n_utility, **LEVEL) for k in range(n_utility + 1)]
    of_harm = [rate_interval(k, n_harm, **LEVEL) for k in range(n_harm + 1)]
    hits = 0
    for good, bad in zip(rng.binomial(n_utility, utility, n_runs), rng.binomial(n_harm, harm, n_runs), strict=True):
        interval = mover_half_difference(good / n_utility, of_utility[good], bad / n_harm, of_harm[bad])
        hits += interval.low <= truth <= interval.high
    assert hits / n_runs >= 0.93


def test_average_of_perfect_figures_ends_at_one():
    best, worst = Interval(0.9, 1.0, "wilson"), Interval(0.0, 0.1, "wilson")
    interval = mover_half_difference(1.0, best, 0.0, worst)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(1.0 - np.hypot(0.1, 0.1) / 2)


@pytest.mark.parametrize("rule", [wilson, clopper_pearson, rate_interval])
def test_errors(rule):
    with pytest.raises(DataError, match="at least one scored response. Got n=0"):
        rule(0, 0, **LEVEL)
    with pytest.raises(DataError, match="between 0 and n=3. Got 4"):
        rule(4, 3, **LEVEL)
    with pytest.raises(ConfigError, match="strictly between 0 and 1. Got 95"):
        rule(1, 3, confidence=95)


@pytest.mark.parametrize("scores", [[], [0.5, 1.5], [float("nan")]])
def test_mean_errors(scores):
    with pytest.raises(DataError, match="at least one score, each in"):
        mean_interval(scores, **LEVEL, n_resamples=10, generator=torch.Generator())


def amount(values, seed=0):
    return amount_interval(values, **LEVEL, n_resamples=1000, generator=torch.Generator().manual_seed(seed))


def test_amounts_have_no_upper_bound_and_no_interval_from_little():
    values = list(np.random.default_rng(0).exponential(3.0, 200))
    found = amount(values)
    expected = stats.t.interval(0.95, 199, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=0.06)
    assert found.high > 1
    assert amount(values[:99]) is None
    assert amount([2.0] * 100) is None
    assert amount([0.0] * 99 + [1.0]) is None  # a third of the resamples has no spread


def test_nearly_equal_scores_are_treated_as_a_rate():
    found = mean_interval([0.0] * 199 + [0.4], **LEVEL, n_resamples=500, generator=torch.Generator().manual_seed(0))
    assert found.method == "clopper-pearson"
    assert found.high < 0.05


@pytest.mark.parametrize("values", [[], [-0.1, 1.0], [float("inf")]])
def test_amount_errors(values):
    with pytest.raises(DataError, match="a mean amount needs at least one value"):
        amount(values)
