"""What several draws say together: intervals of a mean, paired tests over draws, and ranks over data sets.

A *unit* is one draw of the data (task, harmful share, seed). All methods are measured on the same units, so that
differences are taken unit by unit and what makes a draw hard falls out of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sotune.errors import DataError

_BLOCK = 1 << 22  # draws of the bootstrap that are held at once


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean over draws with its interval.

    Attributes:
        mean: The mean.
        low: Lower end; ``-inf`` for a single draw, which says nothing of the spread.
        high: Upper end, ``inf`` likewise.
        n: Draws.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference of two methods over the same units.

    Attributes:
        difference: Mean of the first minus mean of the second.
        low: Lower end of the percentile interval.
        high: Upper end.
        p_value: Two-sided, of the hypothesis that the mean difference is 0.
        n: Units.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def mean_interval(values: Sequence[float], *, confidence: float) -> MeanInterval:
    """Computes the mean of some draws with Student's interval.

    It assumes that the draws are independent and their values about normal; with five seeds it is wide, and where
    rates lie at 0 or 1 it is rough. It speaks of further seeds of the *same* task, not of other tasks.

    Args:
        values: One for each seed.
        confidence: The level, in (0, 1).

    Raises:
        DataError: There are none.
    """
    if not values:
        raise DataError("there is no mean of 0 values; measure at least one draw")
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return MeanInterval(mean, -math.inf, math.inf, 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n)


def paired_bootstrap(
    first: Mapping[str, Mapping[int, float]],
    second: Mapping[str, Mapping[int, float]],
    *,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> PairedDifference:
    """Compares two methods by resampling their differences, unit by unit.

    Seeds are drawn with replacement within each task, and each task counts the same: the statement is about these
    tasks, not about tasks at large. The p-value is twice the smaller share of resampled means on one side of 0, ties
    on both, plus one over the number of resamples plus one. The bootstrap underestimates the spread of n draws by
    ``√((n − 1) / n)``, so the resampled means are spread out by its inverse; with few seeds p is still somewhat small.

    Args:
        first: Task to seed to value.
        second: The same of the other method.
        confidence: The level of the interval, in (0, 1).
        n_resamples: How often to resample.
        seed: Seeds the resampling.

    Raises:
        DataError: The units differ, or there are none.
    """
    if {t: set(by_seed) for t, by_seed in first.items()} != {t: set(by_seed) for t, by_seed in second.items()}:
        raise DataError("a paired comparison needs the same tasks and seeds on both sides; finish the missing cells")
    if not first or not all(first.values()):
        raise DataError("a paired comparison of 0 units says nothing; measure at least one")
    rng = np.random.default_rng(seed)
    resampled = np.zeros(n_resamples)
    means = []
    for task in sorted(first):
        gaps = np.array([first[task][number] - second[task][number] for number in sorted(first[task])])
        means.append(float(gaps.mean()))
        resampled += _resampled_means(gaps, n_resamples, rng)
    resampled /= len(first)
    tail = 0.5 * (1 - confidence)
    low, high = (float(value) for value in np.quantile(resampled, [tail, 1 - tail]))
    fewer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p_value = min(1.0, 2 * (fewer + 1) / (n_resamples + 1))
    return PairedDifference(statistics.fmean(means), low, high, p_value, sum(map(len, first.values())))


def _resampled_means(gaps: NDArray[np.float64], n_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns means of resamples of one task, spread as far as the mean of so few draws truly is."""
    n, center = len(gaps), gaps.mean()
    if n == 1:
        return np.full(n_resamples, center)
    wide = math.sqrt(n / (n - 1))
    blocks = [min(_BLOCK // n, n_resamples - start) for start in range(0, n_resamples, _BLOCK // n)]
    draws = [gaps[rng.integers(0, n, size=(block, n))].mean(axis=1) for block in blocks]
    spread: NDArray[np.float64] = center + wide * (np.concatenate(draws) - center)
    return spread


def mean_ranks(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Computes each method's mean rank over data sets, 1 for the largest value; ties share the mean of their ranks.

    Args:
        table: Data set to method to value; every data set needs every method.

    Raises:
        DataError: A data set lacks a method.
    """
    from scipy.stats import rankdata

    names = sorted({method for values in table.values() for method in values})
    lacking = [(data, name) for data, values in table.items() for name in names if name not in values]
    if lacking:
        raise DataError(f"ranks need every method on every data set; {lacking[0][1]!r} lacks {lacking[0][0]!r}")
    ranks = rankdata([[-values[name] for name in names] for values in table.values()], axis=1)
    return dict(zip(names, ranks.mean(axis=0).tolist(), strict=True))


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Returns the names of the points that no other beats, larger being better in both directions, by falling first.

    A point is beaten by one at least as good in both and better in one; equal points stay together.
    """

    def beaten(point: tuple[float, float]) -> bool:
        return any(o[0] >= point[0] and o[1] >= point[1] and o != point for o in points.values())

    return sorted(
        (name for name, point in points.items() if not beaten(point)), key=lambda name: (-points[name][0], name)
    )
