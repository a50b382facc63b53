import math

import numpy as np
import pytest

from sotune import DataError
from sotune.evaluation.replication import mean_interval, mean_ranks, paired_bootstrap, pareto_front


@pytest.mark.parametrize(
    ("degrees", "confidence", "quantile"),
    # One degree is the Cauchy distribution, tan(π·confidence/2); two have a closed form; 4 and 30 are from tables.
    [
        (1, 0.95, math.tan(math.pi * 0.475)),
        (2, 0.95, math.sqrt(2 * 0.95**2 / (1 - 0.95**2))),
        (4, 0.95, 2.776445),
        (30, 0.99, 2.749996),
    ],
)
def test_the_quantile_of_students_distribution(degrees, confidence, quantile):
    values = [(-1.0) ** i for i in range(degrees + 1)]
    found = mean_interval(values, confidence=confidence)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert (found.high - found.mean) / error == pytest.approx(quantile, rel=1e-6)


def test_the_interval_of_a_mean_by_hand():
    found = mean_interval([1.0, 2.0, 3.0], confidence=0.95)
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == (pytest.approx(2 - half, rel=1e-6), pytest.approx(2 + half, rel=1e-6))


def test_one_draw_says_nothing_of_the_spread():
    found = mean_interval([0.4], confidence=0.95)
    assert (found.mean, found.low, found.high) == (0.4, -math.inf, math.inf)
    with pytest.raises(DataError, match="mean of 0 values"):
        mean_interval([], confidence=0.95)


def test_the_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 2.0, size=(1500, 5))
    intervals = [mean_interval(list(row), confidence=0.95) for row in draws]
    covered = np.mean([i.low <= 0.3 <= i.high for i in intervals])
    assert covered == pytest.approx(0.95, abs=0.02)


def units(values):
    return {f"task{t}": {s: float(v) for s, v in enumerate(row)} for t, row in enumerate(values)}


def test_the_paired_bootstrap_keeps_its_level_and_finds_what_is_there():
    rng = np.random.default_rng(1)

    def p_value(shift):
        hardness = rng.normal(0, 5, size=(4, 5))  # falls out of the differences
        one, other = hardness + rng.normal(shift, 1, (4, 5)), hardness + rng.normal(0, 1, (4, 5))
        return paired_bootstrap(units(one), units(other), confidence=0.95, n_resamples=400, seed=0).p_value

    under_null = [p_value(0.0) for _ in range(400)]
    assert np.mean([p <= 0.05 for p in under_null]) == pytest.approx(0.05, abs=0.035)
    assert np.mean([p_value(1.5) <= 0.05 for _ in range(50)]) > 0.9


def test_the_bootstrap_is_seeded_antisymmetric_and_exact_on_constant_differences():
    one, other = units([[0.5, 0.7], [0.9, 0.4]]), units([[0.4, 0.6], [0.8, 0.3]])
    found = paired_bootstrap(one, other, confidence=0.95, n_resamples=99, seed=3)
    assert (found.difference, found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1))
    assert (found.p_value, found.n) == (pytest.approx(0.02), 4)
    mirrored = paired_bootstrap(other, one, confidence=0.95, n_resamples=99, seed=3)
    assert mirrored.difference == -found.difference
    assert mirrored.p_value == found.p_value
    same = paired_bootstrap(one, one, confidence=0.95, n_resamples=99, seed=3)
    assert (same.difference, same.p_value) == (0.0, 1.0)


def test_the_bootstrap_needs_the_same_units():
    with pytest.raises(DataError, match="same tasks and seeds"):
        paired_bootstrap(units([[1, 2]]), units([[1]]), confidence=0.95, n_resamples=9, seed=0)
    with pytest.raises(DataError, match="0 units"):
        paired_bootstrap({}, {}, confidence=0.95, n_resamples=9, seed=0)


def test_ranks_with_ties():
    table = {"a": {"x": 0.9, "y": 0.5, "z": 0.5}, "b": {"x": 0.1, "y": 0.5, "z": 0.2}}
    assert mean_ranks(table) == {"x": 2.0, "y": 1.75, "z": 2.25}
    with pytest.raises(DataError, match="'z' lacks 'b'"):
        mean_ranks({"a": {"x": 1.0, "z": 2.0}, "b": {"x": 1.0}})


def test_the_pareto_front():
    points = {"safe": (0.1, 1.0), "useful": (1.0, 0.1), "both": (0.8, 0.8), "beaten": (0.7, 0.8), "twin": (0.8, 0.8)}
    assert pareto_front(points) == ["useful", "both", "twin", "safe"]
