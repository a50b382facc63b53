"""The beta distribution's function and quantile: what exact binomial intervals and tests are made of."""

from __future__ import annotations

import math

_TINY = 1e-300
_PRECISION = 1e-15
_MAX_TERMS = 100_000


def regularized_incomplete_beta(a: float, b: float, x: float) -> float:
    """Computes I_x(a, b), the probability that a Beta(a, b) variable is at most ``x``.

    The continued fraction of DLMF 8.17.22 (https://dlmf.nist.gov/8.17#v), evaluated on the side of the mean
    where it converges fast.

    Args:
        a: First shape, > 0.
        b: Second shape, > 0.
        x: In [0, 1].
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - regularized_incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a / _continued_fraction(a, b, x)


def beta_quantile(a: float, b: float, probability: float) -> float:
    """Computes the ``x`` at which I_x(a, b) reaches ``probability``, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2.0) < high:
        if regularized_incomplete_beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return high


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Evaluates 1 + d_1/(1 + d_2/(1 + ...)) from the left (modified Lentz: A/B built as running ratios)."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, _MAX_TERMS):
        d = _coefficient(a, b, x, term)
        denominator = 1.0 / _away_from_zero(1.0 + d * denominator)
        numerator = _away_from_zero(1.0 + d / numerator)
        value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < _PRECISION:
            break
    return value


def _coefficient(a: float, b: float, x: float, term: int) -> float:
    m = term // 2
    if term % 2:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
