"""How good a judge is, measured against human labels, and what a rate would be without its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sotune.errors import DataError
from sotune.evaluation.estimates import Estimate, estimate_rate
from sotune.evaluation.intervals import Interval, normal_quantile
from sotune.evaluation.protocol import Verdict, index_unique

_NO_VARIANCE = 1e-12  # what rounding leaves of none at all


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two raters agree.

    Attributes:
        kappa: Cohen's kappa: 1 is perfect, 0 what chance gives.
        low: Lower end of its interval.
        high: Upper end of its interval.
        observed: Share of items on which they agree.
        n: Items.
    """

    kappa: float
    low: float
    high: float
    observed: float
    n: int


@dataclass(frozen=True, slots=True)
class JudgeAccuracy:
    """A judge held against human labels.

    Attributes:
        sensitivity: Share of the truly positive that it scores 1; the same as recall.
        specificity: Share of the truly negative that it scores 0.
        precision: Share of its 1s that are truly positive; absent when it gave none.
        accuracy: Share on which it is right.
        agreement: Its kappa with the human labels; absent when all labels are equal on both sides.
    """

    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate | None
    accuracy: Estimate
    agreement: Agreement | None


def measure_judge(verdicts: Sequence[Verdict], truth: Mapping[str, bool], *, confidence: float) -> JudgeAccuracy:
    """Measures a judge against human labels.

    Args:
        verdicts: The judge's, each scored 0, 1 or None.
        truth: Id to whether the response truly is what a score of 1 says.
        confidence: The level of the intervals, in (0, 1).

    Raises:
        DataError: The ids differ, or the truth lacks positive or negative items.
    """
    scores = {id: verdict.score for id, verdict in index_unique("verdicts", verdicts).items()}
    if scores.keys() != truth.keys():
        stranger = min(scores.keys() ^ truth.keys())
        raise DataError(f"verdicts and human labels must have the same ids; {stranger!r} is on one side only")
    positive = [scores[id] for id, true in truth.items() if true]
    negative = [None if (s := scores[id]) is None else 1.0 - s for id, true in truth.items() if not true]
    if not positive or not negative:
        raise DataError(
            f"a judge must be measured on both classes. Got {len(positive)} positive and {len(negative)} negative "
            f"labels"
        )
    called: list[float | None] = [float(truth[id]) for id, score in scores.items() if score == 1.0]
    scored = {id: bool(score) for id, score in scores.items() if score is not None}
    said, true = list(scored.values()), [truth[id] for id in scored]
    return JudgeAccuracy(
        sensitivity=estimate_rate(positive, confidence=confidence),
        specificity=estimate_rate(negative, confidence=confidence),
        precision=estimate_rate(called, confidence=confidence) if called else None,
        accuracy=estimate_rate(positive + negative, confidence=confidence),
        agreement=cohen_kappa(said, true, confidence=confidence) if len({*said, *true}) > 1 else None,
    )


def cohen_kappa(left: Sequence[object], right: Sequence[object], *, confidence: float) -> Agreement:
    """Computes Cohen's kappa of two raters' labels, [n] each, in the same order.

    The interval takes the large-sample standard error (Fleiss, Cohen and Everitt, https://doi.org/10.1037/h0028106)
    on the scale of ½·log((1 + κ)/(1 − κ)), which keeps it inside [−1, 1]. It holds its level from about 100 items on;
    with 50 and a rare label, or hardly a disagreement, its coverage falls to 90 %.

    Raises:
        DataError: The lengths differ, there are no items, or both raters gave one and the same label throughout.
    """
    if len(left) != len(right) or not left:
        raise DataError(f"kappa needs two labels for each of at least one item. Got {len(left)} and {len(right)}")
    place = {label: index for index, label in enumerate(dict.fromkeys([*left, *right]))}
    counts = np.zeros((len(place), len(place)))
    np.add.at(counts, ([place[label] for label in left], [place[label] for label in right]), 1)
    shares, n = counts / len(left), len(left)
    observed, expected = float(counts.trace()) / n, float(shares.sum(axis=1) @ shares.sum(axis=0))
    if len(place) == 1:
        raise DataError(f"kappa is undefined if both raters gave every item the label {left[0]!r}")
    kappa = (observed - expected) / (1.0 - expected)
    variance = _kappa_variance(shares, observed, expected) / n
    interval = _fisher_interval(kappa, variance, n * (1.0 - expected), confidence)
    return Agreement(kappa, *interval, observed=observed, n=n)


def correct_rate(rate: Estimate, sensitivity: Estimate, specificity: Estimate, *, confidence: float) -> Estimate:
    """Corrects a rate for the known error of the judge that measured it.

    Rogan and Gladen's estimator (https://doi.org/10.1093/oxfordjournals.aje.a112510) with Lang and Reiczigel's
    interval (https://doi.org/10.1016/j.prevetmed.2013.09.015), which carries the uncertainty of the calibration
    as well as that of the rate. Where responses were unscored the interval is that of the two extremes.

    Args:
        rate: The rate as the judge sees it.
        sensitivity: The judge's, from other responses.
        specificity: The judge's, from other responses.
        confidence: The level of the interval, in (0, 1).

    Raises:
        DataError: The judge is no better than chance, so that its verdicts say nothing of the true rate.
    """
    if sensitivity.value + specificity.value <= 1.0:
        raise DataError(
            f"a judge with sensitivity {sensitivity.value:.3f} and specificity {specificity.value:.3f} is no better "
            f"than chance; its rates cannot be corrected, take another judge"
        )
    successes, asked = rate.value * rate.n, rate.n + rate.n_unscored
    least = _lang_reiczigel(successes, asked, sensitivity, specificity, confidence)
    most = _lang_reiczigel(successes + rate.n_unscored, asked, sensitivity, specificity, confidence)
    youden = sensitivity.value + specificity.value - 1.0
    value = min(1.0, max(0.0, (rate.value + specificity.value - 1.0) / youden))
    low, high = min(least.low, value), max(most.high, value)
    return Estimate(value, low, high, rate.n, rate.n_unscored, "rogan-gladen")


def _lang_reiczigel(
    successes: float, n: int, sensitivity: Estimate, specificity: Estimate, confidence: float
) -> Interval:
    """Adds pseudo-counts to all three proportions, then takes a shifted normal interval of the corrected rate."""
    z = normal_quantile(confidence)
    rate, n_rate = (successes + z * z / 2.0) / (n + z * z), n + z * z
    se, n_se = (sensitivity.value * sensitivity.n + 1.0) / (sensitivity.n + 2.0), sensitivity.n
    sp, n_sp = (specificity.value * specificity.n + 1.0) / (specificity.n + 2.0), specificity.n
    youden = se + sp - 1.0
    prevalence = (rate + sp - 1.0) / youden
    error_se, error_sp = se * (1.0 - se) / n_se, sp * (1.0 - sp) / n_sp
    shift = 2.0 * z * z * (prevalence * error_se - (1.0 - prevalence) * error_sp)
    variance = rate * (1.0 - rate) / n_rate + prevalence**2 * error_se + (1.0 - prevalence) ** 2 * error_sp
    half = z * math.sqrt(variance) / youden
    low, high = prevalence + shift - half, prevalence + shift + half
    return Interval(min(1.0, max(0.0, low)), max(0.0, min(1.0, high)), "rogan-gladen")


def _kappa_variance(shares: NDArray[np.float64], observed: float, expected: float) -> float:
    """Computes n times the large-sample variance of kappa from the shares of each pair of labels, [labels, labels]."""
    left, right, agreeing = shares.sum(axis=1), shares.sum(axis=0), shares.diagonal()
    inner = float(agreeing @ (1.0 - expected - (left + right) * (1.0 - observed)) ** 2)
    apart = shares * (right[:, None] + left[None, :]) ** 2
    inner += (1.0 - observed) ** 2 * float(apart.sum() - apart.trace())
    inner -= (observed * expected - 2.0 * expected + observed) ** 2
    return max(0.0, inner) / (1.0 - expected) ** 4


def _fisher_interval(kappa: float, variance: float, n_beyond_chance: float, confidence: float) -> tuple[float, float]:
    if abs(kappa) == 1.0 or variance < _NO_VARIANCE:
        # Where no disagreement was seen, up to −log(tail)/n of the items could still disagree (the rule of three).
        slack = -math.log((1.0 - confidence) / 2.0) / n_beyond_chance
        return max(-1.0, kappa - slack), min(1.0, kappa + slack)
    half = normal_quantile(confidence) * math.sqrt(variance) / (1.0 - kappa * kappa)
    center = math.atanh(kappa)
    return math.tanh(center - half), math.tanh(center + half)
