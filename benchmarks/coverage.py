"""How often intervals of an evaluation hold the truth, and tests cry wolf, over the range of their use.

Rates and tests by exact enumeration, everything else by simulation. Prints a table in Markdown; exits with 1 where a
nominal 95 % interval covers less than 93 %, or a test at 5 % rejects a true hypothesis more often.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from sotune.evaluation.calibration import cohen_kappa, correct_rate
from sotune.evaluation.estimates import Estimate, estimate_average
from sotune.evaluation.intervals import amount_interval, mean_interval, rate_interval
from sotune.evaluation.paired import compare_paired, mcnemar

CONFIDENCE, FLOOR, LEVEL = 0.95, 0.93, 0.05
Cover = Callable[[Generator], bool]
"""One simulated data set: whether its interval holds the truth."""


@dataclass(frozen=True)
class Line:
    """What was found for one use of one rule."""

    rule: str
    range: str
    n_cases: int
    worst: float
    where: str


def rates(sizes: list[int]) -> Line:
    """Finds the least exact coverage of a rate's interval: it lies just beside an interval's end."""
    worst = (1.0, "")
    for n in sizes:
        counts = np.arange(n + 1)
        ends = [rate_interval(int(k), n, confidence=CONFIDENCE) for k in counts]
        low, high = np.array([i.low for i in ends]), np.array([i.high for i in ends])
        truths = np.concatenate([end + shift for end in (low[1:], high[:-1]) for shift in (-1e-9, 1e-9)])
        covers = (low <= truths[:, None]) & (truths[:, None] <= high)
        coverage = (stats.binom.pmf(counts, n, truths[:, None]) * covers).sum(axis=1)
        worst = min(worst, (float(coverage.min()), f"n = {n}, p = {truths[coverage.argmin()]:.3f}"))
    return Line("rate (Wilson, Clopper–Pearson)", f"n {sizes[0]}–{sizes[-1]}, every p", len(sizes), *worst)


SHAPES: dict[str, tuple[Callable[[Generator, int], NDArray[np.float64]], float]] = {
    "uniform": (lambda rng, n: rng.random(n), 0.5),
    "skewed": (lambda rng, n: rng.beta(0.3, 3, n), 0.3 / 3.3),
    "two humps": (lambda rng, n: rng.beta(0.5, 0.5, n), 0.5),
    "five grades": (lambda rng, n: rng.choice(5, n, p=[0.02, 0.03, 0.1, 0.25, 0.6]) / 4, 3.38 / 4),
    "nearly all best": (lambda rng, n: rng.choice(5, n, p=[0.01, 0.01, 0.01, 0.07, 0.9]) / 4, 3.84 / 4),
    "rare and small": (lambda rng, n: np.where(rng.random(n) < 0.05, rng.random(n), 0.0), 0.025),
}
AMOUNTS: dict[str, tuple[Callable[[Generator, int], NDArray[np.float64]], float]] = {
    "exponential": (lambda rng, n: rng.exponential(1.0, n), 1.0),
    "gamma, shape 2": (lambda rng, n: rng.gamma(2.0, 1.0, n), 2.0),
    "lognormal, σ = 0.5": (lambda rng, n: rng.lognormal(0.0, 0.5, n), float(np.exp(0.125))),
    "lognormal, σ = 1": (lambda rng, n: rng.lognormal(0.0, 1.0, n), float(np.exp(0.5))),
}


def mean_cases() -> Iterator[tuple[str, Cover]]:
    """Yields graded scores of all shapes and sizes."""
    for name, (draw, truth) in SHAPES.items():
        for n in (10, 30, 50, 200, 500):
            yield f"{name}, n = {n}", functools.partial(_covers_mean, draw, truth, n)


def _covers_mean(draw: Callable[[Generator, int], NDArray[np.float64]], truth: float, n: int, rng: Generator) -> bool:
    seed = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    found = mean_interval(draw(rng, n).tolist(), confidence=CONFIDENCE, n_resamples=500, generator=seed)
    return found.low <= truth <= found.high


def amount_cases() -> Iterator[tuple[str, Cover]]:
    """Yields amounts without an upper bound."""
    for name, (draw, truth) in AMOUNTS.items():
        for n in (200, 300, 400):
            yield f"{name}, n = {n}", functools.partial(_covers_amount, draw, truth, n)


def _covers_amount(draw: Callable[[Generator, int], NDArray[np.float64]], truth: float, n: int, rng: Generator) -> bool:
    seed = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    found = amount_interval(draw(rng, n).tolist(), confidence=CONFIDENCE, n_resamples=500, generator=seed)
    return found is not None and found.low <= truth <= found.high


EXTREMES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
SHARES = np.round([*EXTREMES, *np.arange(0.1, 0.95, 0.05), *(1 - share for share in reversed(EXTREMES))], 3)


def averages(sizes: list[tuple[int, int]]) -> Line:
    """Finds the least exact coverage of Avg over a grid of task accuracies and harmful rates on disjoint prompts."""
    worst = (1.0, "")
    for n_utility, n_harm in sizes:
        ends = [[estimate_average(_rate(g, n_utility), _rate(b, n_harm)) for b in range(n_harm + 1)]
                for g in range(n_utility + 1)]  # fmt: skip
        low, high = (np.array([[getattr(e, side) for e in row] for row in ends]) for side in ("low", "high"))
        p_good, p_bad = (stats.binom.pmf(np.arange(n + 1), n, SHARES[:, None]) for n in (n_utility, n_harm))
        for utility, good in zip(SHARES, p_good, strict=True):
            for harm, bad in zip(SHARES, p_bad, strict=True):
                truth = (utility + 1 - harm) / 2
                covers = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
                where = f"n = {n_utility} and {n_harm}, accuracy {utility:g}, harm {harm:g}"
                worst = min(worst, (float(good @ covers @ bad), where))
    least, most = sizes[0][0], max(sizes[-1])
    return Line("Avg (MOVER; both ends under 50)", f"n {least}–{most}, grid of rates", len(sizes), *worst)


@functools.lru_cache(maxsize=100_000)
def _rate(successes: int, n: int) -> Estimate:
    found = rate_interval(successes, n, confidence=CONFIDENCE)
    return Estimate(successes / n, found.low, found.high, n, 0, found.method)


def pair_cases() -> Iterator[tuple[str, Cover]]:
    """Yields two models on the same prompts, by the shares of both, only first, only second, neither."""
    for n in (30, 50, 100, 400):
        for shares in (
            (0.4, 0.1, 0.1, 0.4), (0.05, 0.25, 0.02, 0.68), (0.9, 0.04, 0.04, 0.02), (0.02, 0.9, 0.0, 0.08),
            (0.0, 0.02, 0.02, 0.96), (0.25, 0.25, 0.25, 0.25),
        ):  # fmt: skip
            yield f"n = {n}, {shares}", functools.partial(_covers_pair, n, shares)


def _covers_pair(n: int, shares: tuple[float, ...], rng: Generator) -> bool:
    cells = rng.multinomial(n, shares)
    pairs = [pair for pair, count in zip(((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)), cells, strict=True)
             for _ in range(count)]  # fmt: skip
    first, second = ({str(i): pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    found = compare_paired(first, second, confidence=CONFIDENCE)
    return found.low <= shares[1] - shares[2] <= found.high


def kappa_cases() -> Iterator[tuple[str, Cover]]:
    """Yields two raters, one of whom agrees with a given probability."""
    for n in (100, 300, 1000):
        for share, agree in ((0.5, 0.9), (0.2, 0.8), (0.1, 0.95), (0.5, 0.5), (0.3, 0.98)):
            yield f"n = {n}, share {share}, agree {agree}", functools.partial(_covers_kappa, n, share, agree)


def _covers_kappa(n: int, share: float, agree: float, rng: Generator) -> bool:
    chance = share * agree + (1 - share) * (1 - agree)
    expected = share * chance + (1 - share) * (1 - chance)
    left = rng.random(n) < share
    right = left ^ (rng.random(n) >= agree)
    if len(set(left.tolist()) | set(right.tolist())) < 2:
        return True  # no kappa is reported
    found = cohen_kappa(left.tolist(), right.tolist(), confidence=CONFIDENCE)
    return found.low <= (agree - expected) / (1 - expected) <= found.high


def correction_cases() -> Iterator[tuple[str, Cover]]:
    """Yields judges of known error, calibrated anew each time."""
    for n_labeled in (50, 100, 300):
        for sensitivity, specificity in ((0.9, 0.9), (0.8, 0.95), (0.7, 0.8), (0.99, 0.99)):
            for prevalence in (0.0, 0.02, 0.1, 0.5, 0.9):
                where = f"{n_labeled} labels a class, sens. {sensitivity}, spec. {specificity}, rate {prevalence}"
                yield where, functools.partial(_covers_corrected, n_labeled, sensitivity, specificity, prevalence)


def _covers_corrected(
    n_labeled: int, sensitivity: float, specificity: float, prevalence: float, rng: Generator
) -> bool:
    seen = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    found = [
        Estimate(int(rng.binomial(size, share)) / size, 0.0, 1.0, size, 0, "wilson")
        for size, share in ((300, seen), (n_labeled, sensitivity), (n_labeled, specificity))
    ]
    corrected = correct_rate(*found, confidence=CONFIDENCE)
    return corrected.low <= prevalence <= corrected.high


SIMULATED: dict[str, tuple[str, Callable[[], Iterator[tuple[str, Cover]]]]] = {
    "mean of graded scores (bootstrap-t)": ("n 10–500, six shapes", mean_cases),
    "mean amount (bootstrap-t)": ("n 200–400, four shapes", amount_cases),
    "paired difference (Newcombe)": ("n 30–400", pair_cases),
    "kappa (Fleiss, Fisher's scale)": ("n 100–1,000", kappa_cases),
    "corrected rate (Rogan–Gladen, Lang–Reiczigel)": ("n 300, 50–300 labels a class", correction_cases),
}


def simulate(rule: str, *, n_runs: int, seed: int) -> Line:
    """Finds the least coverage of a rule over its cases.

    The least of many noisy figures lies below the truth, so the three lowest are drawn again, four times as often.
    """
    range_, cases = SIMULATED[rule]
    found = sorted((_coverage(cover, n_runs, seed), where) for where, cover in cases())
    covers = dict(cases())
    worst = min((_coverage(covers[where], 4 * n_runs, seed + 1), where) for _, where in found[:3])
    return Line(rule, range_, len(found), *worst)


def _coverage(cover: Cover, n_runs: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    return float(np.mean([cover(rng) for _ in range(n_runs)]))


def level_of_mcnemar(most: int) -> Line:
    """Finds the largest probability that McNemar's exact test rejects equal rates, by enumeration."""
    worst = (0.0, "")
    for n in range(1, most + 1):
        rejected = [k for k in range(n + 1) if mcnemar(k, n - k) <= LEVEL]
        worst = max(worst, (float(stats.binom.pmf(rejected, n, 0.5).sum()), f"{n} discordant pairs"))
    return Line("McNemar's exact test, false alarms", f"1–{most} discordant pairs", most, *worst)


def table(lines: list[Line]) -> str:
    """Returns the lines as a table in Markdown."""
    head = "| rule | range | cases | worst | where |\n|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {line.rule} | {line.range} | {line.n_cases} | {100 * line.worst:.1f} % | {line.where} |" for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated data sets for each case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    intervals = [rates([1, 2, 5, 10, 20, 30, 50, 70, 100, 120, 150, 200, 500, 1000])]
    intervals += [simulate(rule, n_runs=options.runs, seed=options.seed) for rule in SIMULATED]
    intervals.append(averages([(10, 10), (30, 30), (30, 100), (50, 50), (50, 100), (200, 100), (200, 200)]))
    test = level_of_mcnemar(200)
    print(table([*intervals, test]))
    return int(min(line.worst for line in intervals) < FLOOR or test.worst > LEVEL)


if __name__ == "__main__":
    sys.exit(main())
