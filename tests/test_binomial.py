import pytest
from scipy.stats import beta, betabinom

from sotune.binomial import lower_bound, most_successes, predicted_count, upper_bound
from sotune.errors import DataError


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 40), (39, 40), (17, 500)])
def test_bounds_agree_with_scipy(successes, n):
    assert upper_bound(successes, n, confidence=0.95) == pytest.approx(beta.ppf(0.95, successes + 1, n - successes))
    expected = beta.ppf(0.05, successes, n - successes + 1) if successes else 0.0
    assert lower_bound(successes, n, confidence=0.95) == pytest.approx(expected)


def test_bounds_at_the_ends_are_closed_forms():
    assert upper_bound(0, 29, confidence=0.95) == pytest.approx(1 - 0.05 ** (1 / 29))
    assert lower_bound(29, 29, confidence=0.95) == pytest.approx(0.05 ** (1 / 29))
    assert upper_bound(5, 5, confidence=0.95) == 1
    assert lower_bound(0, 5, confidence=0.95) == 0


@pytest.mark.parametrize("n", [28, 29, 60, 93, 400])
def test_most_successes_is_the_last_count_within_the_limit(n):
    found = most_successes(n, limit=0.1, confidence=0.95)
    if n < 29:
        assert found is None
    else:
        assert upper_bound(found, n, confidence=0.95) <= 0.1 < upper_bound(found + 1, n, confidence=0.95)


@pytest.mark.parametrize(("successes", "n", "later"), [(0, 30, 10), (4, 80, 100), (12, 200, 1000), (3, 40, 0)])
def test_prediction_is_a_quantile_of_the_beta_binomial(successes, n, later):
    expected = betabinom.ppf(0.95, later, successes + 1, n - successes) if later else 0
    assert predicted_count(successes, n, later=later, confidence=0.95) == expected


def test_impossible_counts_are_refused():
    for call in (upper_bound, lower_bound):
        with pytest.raises(DataError, match="between 0 and n"):
            call(4, 3, confidence=0.95)
    with pytest.raises(DataError, match="later trials"):
        predicted_count(0, 3, later=-1, confidence=0.95)
