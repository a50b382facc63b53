"""One-sided exact bounds on a rate, and on a count that is still to come.

The bounds on a rate are those of Clopper and Pearson (https://doi.org/10.1093/biomet/26.4.404). The prediction bound
is Thatcher's (J. R. Stat. Soc. B 26, 1964): after ``s`` successes of ``n`` a later count is at most a quantile of the
beta-binomial with shapes ``s + 1`` and ``n − s``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from sotune.errors import DataError


def upper_bound(successes: float, n: int, *, confidence: float) -> float:
    """Returns the upper bound on a rate, in [0, 1]; 1 where all are successes.

    Raises:
        DataError: The counts are impossible.
    """
    _check(successes, n)
    return float(betaincinv(successes + 1, n - successes, confidence)) if successes < n else 1.0


def lower_bound(successes: float, n: int, *, confidence: float) -> float:
    """Returns the lower bound on a rate, in [0, 1]; 0 where there is no success.

    Raises:
        DataError: The counts are impossible.
    """
    _check(successes, n)
    return float(betaincinv(successes, n - successes + 1, 1 - confidence)) if successes > 0 else 0.0


def most_successes(n: int, *, limit: float, confidence: float) -> int | None:
    """Returns the largest count of successes in ``n`` whose upper bound is at most ``limit``; ``None`` where none is.

    Raises:
        DataError: ``n`` is not positive.
    """
    _check(0, n)
    failures = np.arange(n, 0, -1)
    within = int((betaincinv(n - failures + 1, failures, confidence) <= limit).sum()) + (limit >= 1)
    return within - 1 if within else None


def predicted_count(successes: int, n: int, *, later: int, confidence: float) -> int:
    """Returns how many of ``later`` further trials are successes at most, with the given confidence.

    Raises:
        DataError: The counts are impossible.
    """
    from scipy.stats import betabinom

    _check(successes, n)
    if later < 0:
        raise DataError(f"a count of later trials must be at least 0. Got {later}")
    if successes == n or later == 0:
        return later
    return int(betabinom.ppf(confidence, later, successes + 1, n - successes))


def _check(successes: float, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"a rate needs at least one trial and between 0 and n successes. Got {successes} of n={n}")
