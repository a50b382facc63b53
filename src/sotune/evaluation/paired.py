"""Comparing two models on the same prompts, and how small a difference the number of prompts can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import bdtr, ndtri

from sotune.errors import ConfigError, DataError
from sotune.evaluation.intervals import normal_quantile, wilson

_NO_RISE = 1e-14  # at 0 itself the equation of the detectable rise has a second root where the rate is 0


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two models' 0/1 scores on the same prompts.

    Attributes:
        n: Prompts that both models were scored on.
        n_unscored: Prompts left out since one of the two was unscored.
        only_first: Prompts on which only the first model scored 1.
        only_second: Prompts on which only the second did.
        difference: Rate of the first minus rate of the second, in [−1, 1].
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        p_value: Of the exact test that the two rates are equal.
    """

    n: int
    n_unscored: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float


def compare_paired(
    first: Mapping[str, float | None], second: Mapping[str, float | None], *, confidence: float
) -> PairedComparison:
    """Compares two models prompt by prompt, with McNemar's exact test and Newcombe's interval.

    The interval is Newcombe's method 10 (https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C):
    two Wilson intervals, combined with the correlation of the pairs.

    Args:
        first: Prompt id to score, 0, 1 or None.
        second: The same prompts' scores of the other model.
        confidence: The level of the interval, in (0, 1).

    Raises:
        DataError: The ids differ, no prompt was scored for both, or a score is neither 0 nor 1.
    """
    if first.keys() != second.keys():
        stranger = min(first.keys() ^ second.keys())
        raise DataError(f"a paired comparison needs the same prompts on both sides; {stranger!r} is on one side only")
    pairs = [(a, b) for id in first if (a := first[id]) is not None and (b := second[id]) is not None]
    if not pairs:
        raise DataError(f"none of {len(first)} prompts was scored for both models; there is nothing to compare")
    if any(score not in (0.0, 1.0) for pair in pairs for score in pair):
        raise DataError("a paired comparison needs scores of 0 or 1; let the judge apply its threshold")
    both, neither = pairs.count((1.0, 1.0)), pairs.count((0.0, 0.0))
    only_first, only_second = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
    low, high = _difference_interval(both, only_first, only_second, neither, confidence)
    return PairedComparison(
        n=len(pairs),
        n_unscored=len(first) - len(pairs),
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / len(pairs),
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Computes the two-sided p-value of McNemar's exact test from the discordant pairs.

    If the rates are equal, a discordant pair is as likely to favor either side: a fair coin thrown once for each.
    """
    if only_first < 0 or only_second < 0:
        raise DataError(f"counts of discordant pairs must not be negative. Got {only_first} and {only_second}")
    tail = float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))
    return min(1.0, 2.0 * tail)


def adjust_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusts the p-values of several tests so that all of them together keep the level of one (Holm's method)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_difference(rate: float, n: int, *, power: float, confidence: float) -> float:
    """Computes the smallest rise of a rate that a two-sided test of two samples of size ``n`` finds.

    Where the rate is above one half the fall is meant, which is the mirror image. A paired test on the same
    prompts finds smaller ones. Rises beyond the end of the scale cannot be found: the answer is then 1.

    Args:
        rate: The rate of the model that is compared with, in [0, 1].
        n: Responses per model.
        power: The probability of finding it, in (0, 1).
        confidence: One minus the level of the test, in (0, 1).
    """
    if n < 1 or not 0.0 <= rate <= 1.0 or not 0.0 < power < 1.0:
        raise ConfigError(f"rate in [0, 1], n >= 1 and power in (0, 1) are needed. Got {rate}, {n}, {power}")
    base = min(rate, 1.0 - rate)
    z_level, z_power = normal_quantile(confidence), float(ndtri(power))

    def excess(rise: float) -> float:
        other, middle = base + rise, base + rise / 2.0
        pooled = math.sqrt(2.0 * middle * (1.0 - middle))
        apart = math.sqrt(base * (1.0 - base) + other * (1.0 - other))
        return rise * math.sqrt(n) - z_level * pooled - z_power * apart

    largest = 1.0 - base
    return float(brentq(excess, _NO_RISE, largest, xtol=_NO_RISE)) if excess(largest) >= 0.0 else 1.0


def _difference_interval(
    both: int, only_first: int, only_second: int, neither: int, confidence: float
) -> tuple[float, float]:
    n = both + only_first + only_second + neither
    first = wilson(both + only_first, n, confidence=confidence)
    second = wilson(both + only_second, n, confidence=confidence)
    rate_first, rate_second = (both + only_first) / n, (both + only_second) / n
    phi = _correlation(both, only_first, only_second, neither)
    difference = rate_first - rate_second
    below = _combine(rate_first - first.low, second.high - rate_second, phi)
    above = _combine(first.high - rate_first, rate_second - second.low, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _combine(left: float, right: float, phi: float) -> float:
    return math.sqrt(max(0.0, left * left - 2.0 * phi * left * right + right * right))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Computes the correlation of the pairs, drawn towards 0 by Newcombe's continuity correction."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    product = both * neither - only_first * only_second
    half = (both + only_first + only_second + neither) / 2.0
    corrected = max(product - half, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)
