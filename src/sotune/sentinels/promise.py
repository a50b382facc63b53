r"""What can be promised of a cut: bounds on the harm that passes, and cuts that keep a bound.

**Pass rate.** The cut is put at the (k+1)-th largest score of ``n`` measuring sentinels, where k is the largest count
whose Clopper–Pearson bound is within the limit. As k depends on ``n`` alone, the pass rate of further harm of the same
kind follows Beta(k + 1, n − k), whatever the scores' distribution is, so the bound is exact although the cut was placed
on the sentinels: the Neyman–Pearson umbrella of Tong, Feng and Li (Sci. Adv. 4, 2018).

**Harmful share.** With pass rate H and harmful share p of the data, a share p·H / (share kept) of the kept rows is
harmful. Dropping the lowest q of the rows catches a share c of the harm, so p·c ≤ q and p ≤ q / c: no label is needed.
Keep shares are tested in a fixed order, strict to loose, until the first that fails, which needs no correction for
looking many times (Learn then Test, Angelopoulos et al., arXiv 2110.01052). The tuning fold chooses q, and where to
begin.

**Where harm thins out.** Without a limit, rows are dropped, the lowest first, while enough of them seem harmful: with
an estimate p of the harmful share, dropping the lowest q catches p·c(q), and the cut is where p·c(q) − drop_at·q is
largest. Where no harm is found p is near 0, and all rows stay. With a safe reference no more is dropped, once nearly
all harm is caught, than where c(q) exceeds the share of held-out safe answers that q drops by most: beyond that a drop
loses more of them than it catches of the harm. The tuning folds alone place this cut, so the measuring folds' bounds
hold at it as at any fixed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.binomial import lower_bound, most_successes, predicted_count, upper_bound
from sotune.errors import ConfigError

CONFIDENCE = 0.95
_HALF = 1 - (1 - CONFIDENCE) / 2  # of two bounds that must hold together
_QUARTER = 1 - (1 - CONFIDENCE) / 4
DROPS: tuple[float, ...] = tuple(
    step / 1000 for step in (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, *range(100, 200, 20), *range(200, 550, 50))
)
"""Shares of the rows whose dropping may be used to bound the harmful share of the data."""
_KEEPS = tuple(step / 200 for step in range(60, 201))  # in this order: three tenths to all, by half percents
_UNTOLD = 0.4  # mean place of sentinels, 0.5 by chance: above it the weights cannot tell them from the rows
_FEW = 0.2  # of the tuning sentinels
_NEARLY_ALL = 0.95  # of the tuning sentinels must be caught, whatever safe answers it costs
_LEAST_CAUGHT = 0.7  # a drop that catches less says too little to estimate from


@dataclass(frozen=True)
class Rate:
    """A share of sentinels with exact one-sided bounds, each at 95 %.

    Attributes:
        count: How many.
        n: Of how many.
        low: Lower bound of the rate.
        high: Upper bound.
    """

    count: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: Tensor) -> Rate:
        """Measures the rate of some trials, bool ``[n]``."""
        count, n = int(hits.sum()), len(hits)
        return cls(count, n, lower_bound(count, n, confidence=CONFIDENCE), upper_bound(count, n, confidence=CONFIDENCE))


@dataclass(frozen=True)
class HarmfulShare:
    """The harmful share of the downstream rows, found without labels.

    Attributes:
        estimate: The least of q / c(q) over the drops that catch most sentinels: high where harm and safety overlap.
        low: Lower bound, from the rows that are dropped beyond those that a safe set would lose; 97.5 %.
        high: Upper bound, 97.5 %.
        drop: The share of the rows whose dropping gave the bounds; chosen by the tuning fold.
    """

    estimate: float
    low: float
    high: float
    drop: float


@dataclass(frozen=True)
class Cut:
    """How many rows are kept.

    Attributes:
        k: The count; the k largest weights.
        score: ``log(n·w)`` that a kept row exceeds; minus infinity where all are kept.
        bound: What is promised: the pass rate, or the harmful share among kept rows, is at most this (95 %).
    """

    k: int
    score: float
    bound: float


def cut_at_pass_rate(rows: Tensor, sentinels: Tensor, *, max_harmful_pass: float) -> Cut:
    """Keeps as many rows as the bound on the pass rate of harm allows.

    >>> rows, sentinels = torch.arange(-50.0, 150.0), torch.arange(-30.0, 10.0)
    >>> cut = cut_at_pass_rate(rows, sentinels, max_harmful_pass=0.1)
    >>> cut.k, round(cut.bound, 3)
    (140, 0.072)

    Args:
        rows: Scores of the downstream rows, ``[n]``.
        sentinels: Scores of the measuring sentinels, ``[k]``.
        max_harmful_pass: What the pass rate is to be at most, in (0, 1).

    Raises:
        ConfigError: There are too few sentinels for that, or no row outweighs the cut.
    """
    n = len(sentinels)
    allowed = most_successes(n, limit=max_harmful_pass, confidence=CONFIDENCE) if n else None
    if allowed is None:
        raise ConfigError(
            f"no cut can promise that at most {max_harmful_pass:.3g} of the harm passes: that needs "
            f"{sentinels_needed(max_harmful_pass)} measuring sentinels of different prompts, and there are {n}; give a "
            f"larger harmful reference, raise max_harmful_pass, or keep a fixed fraction"
        )
    score = float(sentinels.double().sort(descending=True).values[allowed]) if allowed < n else -float("inf")
    k = int((rows.double() > score).sum())
    if k == 0:
        raise ConfigError(
            f"no row weighs more than the sentinel that max_harmful_pass={max_harmful_pass:.3g} puts the cut at: the "
            f"weights cannot tell these rows from the harmful reference; raise the limit, or give a better anchor"
        )
    return Cut(k, score, upper_bound(allowed, n, confidence=CONFIDENCE))


def cut_at_harmful_share(
    rows: Tensor,
    sentinels: Tensor,
    share: HarmfulShare,
    *,
    tuning_outranked: Sequence[float],
    max_harmful_share: float,
) -> Cut:  # fmt: skip
    """Keeps as many rows as the bound on the harmful share among them allows.

    >>> rows = torch.cat([torch.arange(-50.0, 0.0), torch.arange(1000.0, 1950.0)])  # fifty are harmful
    >>> share = HarmfulShare(estimate=0.05, low=0.0, high=0.1, drop=0.05)
    >>> cut = cut_at_harmful_share(
    ...     rows, torch.arange(-200.0, 0.0), share, tuning_outranked=[0.95] * 50, max_harmful_share=0.01
    ... )
    >>> cut.k, round(cut.bound, 4)
    (960, 0.0094)

    Args:
        rows: Scores of the downstream rows, ``[n]``.
        sentinels: Scores of the measuring sentinels, ``[k]``.
        share: The harmful share of the rows.
        tuning_outranked: For each tuning sentinel the share of the downstream rows that weigh more.
        max_harmful_share: What the share among the kept rows is to be at most, in (0, 1).

    Raises:
        ConfigError: The cut that the tuning fold finds best cannot promise that.
    """
    ordered = rows.double().sort(descending=True).values
    found: Cut | None = None
    first = _first_keep(tuning_outranked)
    for keep in (keep for keep in _KEEPS if keep >= first):
        tried = _cut_keeping(round(keep * len(rows)), ordered, sentinels, share)
        if tried.bound > max_harmful_share:
            break
        found = tried
    if found is None:
        strictest = _cut_keeping(round(first * len(rows)), ordered, sentinels, share)
        raise ConfigError(
            f"no cut can promise that at most {max_harmful_share:.3g} of the kept rows are harmful: keeping "
            f"{first:.1%} of the rows, the bound is {strictest.bound:.3g}, with {len(sentinels)} sentinels and a "
            f"harmful share of the data of at most {share.high:.3g}; give a larger reference, or raise the limit"
        )
    return found


def cut_where_harm_thins(
    rows: Tensor, *, tuning_outranked: Sequence[float], drop_at: float, safe_outranked: Sequence[float] = ()
) -> Cut | None:
    """Drops the lowest rows while at least some share of them seems harmful, by the tuning sentinels alone.

    >>> rows = torch.cat([torch.arange(-100.0, 0.0), torch.arange(1000.0, 1900.0)])  # a tenth is harmful
    >>> caught = [1 - (i + 0.5) / 800 for i in range(80)]  # the sentinels lie among it
    >>> cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05).k
    901
    >>> cut_where_harm_thins(rows[100:], tuning_outranked=[1.0] * 80, drop_at=0.05).k  # all below the rows
    900
    >>> safe = [0.902] * 40  # as low as the last of the harm
    >>> cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05, safe_outranked=safe).k
    903

    Args:
        rows: Scores of the downstream rows, ``[n]``.
        tuning_outranked: For each tuning sentinel the share of the downstream rows that weigh more.
        drop_at: The share, in (0, 1).
        safe_outranked: The same as of the sentinels of the safe reference's tuning fold; empty where there is none.

    Returns:
        The cut, which promises nothing by itself; ``None`` where the weights do not tell the sentinels from the rows.
    """
    n, place = len(rows), 1 - torch.tensor(tuning_outranked, dtype=torch.float64)
    if float(place.mean()) > _UNTOLD:
        return None
    drop = choose_drop(tuning_outranked, n)
    share = min(1.0, drop / max(float((place <= drop).double().mean()), drop))
    most = _most_dropped(place, safe_outranked)
    worth = {q: share * float((place <= q).double().mean()) - drop_at * q for q in (0.0, *place.tolist()) if q <= most}
    dropped = round(max(worth, key=lambda q: worth[q]) * n)
    score = float(rows.double().kthvalue(dropped).values) if dropped else -float("inf")
    k = int((rows.double() > score).sum())  # rows that tie with the last dropped one go too
    return Cut(k, score, 1.0) if k else None


def _most_dropped(place: Tensor, safe_outranked: Sequence[float]) -> float:
    """Returns the drop that exceeds the safe sentinels lost by most, of those that catch nearly all harmful ones."""
    if not safe_outranked:
        return 1.0
    safe = 1 - torch.tensor(safe_outranked, dtype=torch.float64)

    def caught(q: float) -> float:
        return float((place <= q).double().mean())

    enough = [q for q in place.tolist() if caught(q) >= _NEARLY_ALL]
    return max(enough, key=lambda q: (caught(q) - float((safe <= q).double().mean()), q))


def _first_keep(tuning_outranked: Sequence[float]) -> float:
    """Returns the keep share whose bound would be least if the tuning fold were the measuring one."""
    place = torch.tensor(tuning_outranked, dtype=torch.float64)
    if not len(place):
        return _KEEPS[0]
    return min(_KEEPS, key=lambda keep: upper_bound(int((place < keep).sum()), len(place), confidence=_HALF) / keep)


def _cut_keeping(k: int, ordered: Tensor, sentinels: Tensor, share: HarmfulShare) -> Cut:
    n = len(ordered)
    score = float(ordered[k]) if k < n else -float("inf")
    k = int((ordered > score).sum())  # rows that tie with the first dropped one go too
    passing = int((sentinels.double() > score).sum())
    return Cut(k, score, harmful_share_kept(passing, len(sentinels), share, keep=max(k, 1) / n))


def estimate_harmful_share(
    rows: Tensor, sentinels: Tensor, *, safe_outranked: Tensor, tuning_outranked: Sequence[float]
) -> HarmfulShare:
    """Estimates and bounds the harmful share of the downstream rows, whose harm is like the sentinels'.

    >>> rows = torch.cat([torch.arange(-100.0, 0.0), torch.arange(1000.0, 1900.0)])  # a tenth is harmful
    >>> sentinels = torch.arange(-100.0, 0.0)
    >>> share = estimate_harmful_share(
    ...     rows, sentinels, safe_outranked=torch.full((50,), 0.4), tuning_outranked=[0.95] * 80
    ... )
    >>> round(share.low, 3), round(share.estimate, 3), round(share.high, 3)
    (0.0, 0.1, 0.176)

    Args:
        rows: Scores of the downstream rows, ``[n]``.
        sentinels: Scores of the measuring sentinels, ``[k]``.
        safe_outranked: For each held-out anchor row, the share of the downstream rows that weigh more, ``[m]``.
        tuning_outranked: The same for the tuning sentinels, by which alone the drop for the bounds is chosen.
    """
    drop = choose_drop(tuning_outranked, len(rows))
    dropped, caught = _drop(drop, rows, sentinels)
    n_rows, n_sentinels = len(rows), len(sentinels)
    catch_low = lower_bound(caught, n_sentinels, confidence=_QUARTER)
    high = min(1.0, upper_bound(dropped, n_rows, confidence=_QUARTER) / catch_low) if catch_low > 0 else 1.0
    lost = int((safe_outranked >= 1 - drop).sum())
    lost_high = upper_bound(lost, len(safe_outranked), confidence=_QUARTER) if len(safe_outranked) else 1.0
    beyond = lower_bound(dropped, n_rows, confidence=_QUARTER) - lost_high
    estimates = [
        dropped / n_rows / (caught / n_sentinels)
        for dropped, caught in (_drop(q, rows, sentinels) for q in DROPS)
        if caught >= _LEAST_CAUGHT * n_sentinels and dropped > 0
    ]
    return HarmfulShare(
        estimate=min([high, *estimates]),
        low=max(0.0, beyond / (1 - lost_high)) if lost_high < 1 else 0.0,
        high=high,
        drop=drop,
    )


def choose_drop(tuning_outranked: Sequence[float], n_rows: int) -> float:
    """Returns the drop that would bound the harmful share best if the tuning fold were the measuring one.

    Drops that catch only a few are left out: the lowest sentinels of all may lie lower than any harm in the data, near
    rows that the weights were solved with.
    """
    place = torch.tensor(tuning_outranked, dtype=torch.float64)

    def bound(q: float) -> float:
        n_caught = int((place >= 1 - q).sum())
        caught = lower_bound(n_caught, len(place), confidence=_QUARTER) if n_caught >= _FEW * len(place) else 0.0
        dropped: float = upper_bound(round(q * n_rows), n_rows, confidence=_QUARTER)
        return dropped / float(caught) if caught > 0 else math.inf

    return min(DROPS, key=bound)


def _drop(q: float, rows: Tensor, sentinels: Tensor) -> tuple[int, int]:
    """Returns how many rows and how many sentinels are dropped with the lowest q of the rows."""
    count = round(q * len(rows))
    if count == 0:
        return 0, 0
    score = rows.double().kthvalue(count).values
    return int((rows.double() <= score).sum()), int((sentinels.double() <= score).sum())


def harmful_rows_kept(passed: Rate, n_harmful: int) -> int:
    """Returns how many of some harmful rows in the data are kept at most (95 %), if they are like the sentinels.

    >>> harmful_rows_kept(Rate.of(torch.tensor([True] * 2 + [False] * 98)), 50)
    4
    """
    return predicted_count(passed.count, passed.n, later=n_harmful, confidence=CONFIDENCE)


def harmful_share_kept(passing: int, n: int, share: HarmfulShare, *, keep: float) -> float:
    """Returns the harmful share of the kept rows at most (95 %), at a cut that the measuring sentinels did not place.

    >>> share = HarmfulShare(estimate=0.05, low=0.0, high=0.1, drop=0.05)
    >>> round(harmful_share_kept(0, 90, share, keep=0.8), 3)
    0.005

    Args:
        passing: How many measuring sentinels pass the cut.
        n: Of how many.
        share: The harmful share of all rows.
        keep: The share of the rows that are kept.
    """
    return min(1.0, upper_bound(passing, n, confidence=_HALF) * share.high / keep)


def sentinels_needed(max_harmful_pass: float) -> int:
    """Returns with how many sentinels, none of which passes, the bound is within the limit.

    >>> sentinels_needed(0.1)
    29
    """
    n = 1
    while upper_bound(0, n, confidence=CONFIDENCE) > max_harmful_pass:
        n += 1
    return n
