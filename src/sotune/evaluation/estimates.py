"""A figure that is never without its interval, its sample size and its count of unscored responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sotune.errors import DataError
from sotune.evaluation.intervals import (
    MIN_MOVER_N,
    Interval,
    Method,
    amount_interval,
    clopper_pearson,
    ends_half_difference,
    mean_interval,
    mover_half_difference,
    rate_interval,
)

CONFIDENCE, N_RESAMPLES = 0.95, 2000  # of every interval that is reported


@dataclass(frozen=True, slots=True)
class Estimate:
    """One measured figure.

    Attributes:
        value: The rate or mean over the scored responses, in [0, 1].
        low: Lower end of its interval.
        high: Upper end of its interval.
        n: How many responses were scored.
        n_unscored: How many more could not be scored. They are not in ``value``; the interval is wide enough
            for whatever they are, since its ends count them all as 0 and all as 1.
        interval: The rule that made the interval.
        n_unreadable: How many of ``n`` hold nothing that could be read as an answer. They count as 0.
    """

    value: float
    low: float
    high: float
    n: int
    n_unscored: int
    interval: Method
    n_unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Amount:
    """One measured mean of a quantity without an upper bound, such as nats.

    Attributes:
        value: The mean over what could be measured.
        low: Lower end of its interval; None where there is too little for one.
        high: Upper end of its interval; None likewise.
        n: How many values it is the mean of.
        n_unscored: How many more could not be measured. They are neither in the value nor in the interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    n_unscored: int


def estimate_amount(values: Sequence[float | None], *, seed: int) -> Amount:
    """Estimates the mean of amounts ≥ 0 or None (not measured); the seed is that of the bootstrap.

    Raises:
        DataError: There are no values, none is other than None, or one is negative or not finite.
    """
    import torch

    known, generator = _scored(values), torch.Generator().manual_seed(seed)
    interval = amount_interval(known, confidence=CONFIDENCE, n_resamples=N_RESAMPLES, generator=generator)
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Amount(sum(known) / len(known), low, high, len(known), len(values) - len(known))


def estimate_rate(scores: Sequence[float | None], *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimates a rate from scores that are 0, 1 or None (unscored).

    Raises:
        DataError: There are no scores, none is other than None, or one is neither 0 nor 1.
    """
    known = _scored(scores)
    if not all(score in (0.0, 1.0) for score in known):
        raise DataError("a rate needs scores of 0 or 1; let the judge apply its threshold, or take a mean")
    n_unscored, successes = len(scores) - len(known), round(sum(known))
    least = rate_interval(successes, len(scores), confidence=confidence)
    most = rate_interval(successes + n_unscored, len(scores), confidence=confidence)
    if least.method != most.method:  # one name for both ends: the exact rule is never too short
        least = clopper_pearson(successes, len(scores), confidence=confidence)
        most = clopper_pearson(successes + n_unscored, len(scores), confidence=confidence)
    return Estimate(successes / len(known), least.low, most.high, len(known), n_unscored, least.method)


def estimate_mean(scores: Sequence[float | None], *, seed: int) -> Estimate:
    """Estimates the mean of scores in [0, 1] or None (unscored); scores of only 0 and 1 make a rate.

    The seed is that of the bootstrap.

    Raises:
        DataError: There are no scores, none is other than None, or one lies outside [0, 1].
    """
    known = _scored(scores)
    if all(score in (0.0, 1.0) for score in known):
        return estimate_rate(scores)
    import torch

    n_unscored, generator = len(scores) - len(known), torch.Generator().manual_seed(seed)

    def interval(filled: list[float]) -> Interval:
        return mean_interval(filled, confidence=CONFIDENCE, n_resamples=N_RESAMPLES, generator=generator)

    least = interval(known + [0.0] * n_unscored)
    most = interval(known + [1.0] * n_unscored) if n_unscored else least
    return Estimate(sum(known) / len(known), least.low, most.high, len(known), n_unscored, least.method)


def estimate_average(utility: Estimate, harmful_rate: Estimate) -> Estimate:
    """Estimates ½(utility + (1 − harmful_rate)), Eq. 9–10, from figures on disjoint prompts."""
    gain, loss = _interval(utility), _interval(harmful_rate)
    if min(utility.n, harmful_rate.n) < MIN_MOVER_N:
        interval = ends_half_difference(gain, loss)
    else:
        interval = mover_half_difference(utility.value, gain, harmful_rate.value, loss)
    return Estimate(
        (utility.value + 1.0 - harmful_rate.value) / 2.0,
        interval.low,
        interval.high,
        utility.n + harmful_rate.n,
        utility.n_unscored + harmful_rate.n_unscored,
        interval.method,
    )


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.low, estimate.high, estimate.interval)


def _scored(scores: Sequence[float | None]) -> list[float]:
    if not scores:
        raise DataError("an estimate needs at least one verdict. Got 0; an empty set has no rate, not a rate of 0")
    known = [score for score in scores if score is not None]
    if not known:
        raise DataError(f"none of {len(scores)} verdicts could be scored; look at the judge's explanations")
    return known
