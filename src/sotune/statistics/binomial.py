"""One-sided exact bounds on a rate, and on a count that is still to come.

The bounds on a rate are those of Clopper and Pearson (https://doi.org/10.1093/biomet/26.4.404). The prediction bound
is Thatcher's (J. R. Stat. Soc. B 26, 1964): after ``s`` successes of ``n`` a later count is at most a quantile of the
beta-binomial with shapes ``s + 1`` and ``n − s``.
"""

from __future__ import annotations

import math

from sotune.errors import DataError
from sotune.statistics.beta import beta_quantile


def upper_bound(successes: float, n: int, *, confidence: float) -> float:
    """Returns the upper bound on a rate, in [0, 1]; 1 where all are successes.

    Raises:
        DataError: The counts are impossible.
    """
    _check(successes, n)
    return beta_quantile(successes + 1, n - successes, confidence) if successes < n else 1.0


def lower_bound(successes: float, n: int, *, confidence: float) -> float:
    """Returns the lower bound on a rate, in [0, 1]; 0 where there is no success.

    Raises:
        DataError: The counts are impossible.
    """
    _check(successes, n)
    return beta_quantile(successes, n - successes + 1, 1 - confidence) if successes > 0 else 0.0


def most_successes(n: int, *, limit: float, confidence: float) -> int | None:
    """Returns the largest count of successes in ``n`` whose upper bound is at most ``limit``; ``None`` where none is.

    Raises:
        DataError: ``n`` is not positive.
    """
    _check(0, n)
    if upper_bound(0, n, confidence=confidence) > limit:
        return None
    low, high = 0, n  # the bound is at most the limit at low, and above it at high, unless the limit is 1
    if limit >= 1:
        return n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_bound(middle, n, confidence=confidence) <= limit else (low, middle)
    return low


def predicted_count(successes: int, n: int, *, later: int, confidence: float) -> int:
    """Returns how many of ``later`` further trials are successes at most, with the given confidence.

    Args:
        successes: Successes so far.
        n: Trials so far, at least one.
        later: Trials still to come.
        confidence: In (0, 1).

    Raises:
        DataError: The counts are impossible.
    """
    _check(successes, n)
    if later < 0:
        raise DataError(f"a count of later trials must be at least 0. Got {later}")
    if successes == n:
        return later
    a, b = successes + 1, n - successes
    log_whole = _log_beta(a, b)
    reached = 0.0
    for count in range(later + 1):
        log_ways = math.lgamma(later + 1) - math.lgamma(count + 1) - math.lgamma(later - count + 1)
        reached += math.exp(log_ways + _log_beta(a + count, b + later - count) - log_whole)
        if reached >= confidence:
            return count
    return later


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _check(successes: float, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"a rate needs at least one trial and between 0 and n successes. Got {successes} of n={n}")
