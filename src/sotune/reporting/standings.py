"""How methods stand against each other: means over seeds, ranks over data sets, and tests against the best rival."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotune.evaluation.paired import adjust_holm
from sotune.evaluation.replication import (
    MeanInterval,
    PairedDifference,
    mean_interval,
    mean_ranks,
    paired_bootstrap,
    pareto_front,
)
from sotune.reporting.roster import Roster
from sotune.reporting.summary import METRICS

_CONFIDENCE, _N_RESAMPLES, _SEED = 0.95, 9999, 0
_RANKED_BY = "avg"

Units = dict[str, dict[int, Mapping[str, Any]]]  # condition to seed to row


@dataclass(frozen=True, slots=True)
class Standing:
    """One method among the others.

    Attributes:
        method: Its key.
        name: Its name in plain words.
        metrics: Metric to the mean over seeds with its interval, clipped to [0, 1]; metrics not measured are absent.
        rank: Mean rank over conditions by Avg, 1 the best; ``None`` where it does not compete.
        difference: Of Avg, to the best rival, with its interval; ``None`` for that rival and where it does not compete.
        p_value: Of that difference, after Holm's correction over all methods tested; ``None``, as its interval is
            void, with a single seed.
        extra_tokens: Mean tokens that training read besides those of the rows, in units of these.
        seconds: Mean time of a cell.
        peak_bytes: Largest peak memory of a cell.
        on_front: Whether no other competitor is both as safe and as good at the task, and better in one.
    """

    method: str
    name: str
    metrics: Mapping[str, MeanInterval]
    rank: float | None
    difference: PairedDifference | None
    p_value: float | None
    extra_tokens: float | None
    seconds: float | None
    peak_bytes: float | None
    on_front: bool

    @property
    def both_errors(self) -> float | None:
        """Harmful rate plus over-refusal: what a method that only trades one for the other does not lower."""
        both = [self.metrics.get(name) for name in ("harmful_rate", "over_refusal")]
        return None if None in both else sum(one.mean for one in both if one is not None)


@dataclass(frozen=True, slots=True)
class Standings:
    """All methods under one condition, or over all of them.

    Attributes:
        name: The condition; ``overall`` over all.
        conditions: The conditions that count.
        n_seeds: Seeds of each.
        best_rival: Key of the method with the best mean Avg that is not ours; ``None`` where there is none.
        best_rival_name: Its name in plain words.
        methods: In the order of `Roster.in_order`.
    """

    name: str
    conditions: Sequence[str]
    n_seeds: int
    best_rival: str | None
    best_rival_name: str
    methods: Sequence[Standing]


def compute_standings(runs: Sequence[Mapping[str, Any]]) -> list[Standings]:
    """Returns the standings over all conditions first, where there are several, then those under each.

    Args:
        runs: The rows of ``compare.json``.
    """
    units: dict[str, Units] = {}
    for run in runs:
        condition = condition_name(run)
        units.setdefault(str(run["method"]), {}).setdefault(condition, {})[int(run.get("seed") or 0)] = run
    conditions = list(dict.fromkeys(condition_name(run) for run in runs))
    roster = Roster.of(runs)
    each = [
        _standings(name, roster, {m: {name: u[name]} for m, u in units.items() if name in u}) for name in conditions
    ]
    complete = {method: own for method, own in units.items() if len(own) == len(conditions)}
    return [_standings("overall", roster, complete), *each] if len(conditions) > 1 and complete else each


def condition_name(run: Mapping[str, Any]) -> str:
    """Returns what names a run's data set and harmful share."""
    share = run.get("harmful_fraction")
    name = str(run.get("dataset") or "unnamed data")
    return name if share is None else f"{name}, {100 * float(share):g}\u202f% harmful rows"


def _standings(name: str, roster: Roster, units: Mapping[str, Units]) -> Standings:
    order = roster.in_order(units)
    metrics = {method: {m: i for m in METRICS if (i := _mean(units[method], m)) is not None} for method in order}
    competing = [m for m in order if roster.competes(m) and _RANKED_BY in metrics[m]]
    ranks = _ranks({method: units[method] for method in competing})
    rivals = [method for method in competing if not roster.is_ours(method)]
    best = max(rivals, key=lambda method: (metrics[method][_RANKED_BY].mean, method), default=None)
    differences = {} if best is None else {
        method: difference
        for method in competing
        if method != best and (difference := _difference(units[method], units[best])) is not None
    }  # fmt: skip
    n_seeds = max(len(by_seed) for own in units.values() for by_seed in own.values())
    # One seed has no spread to resample: every difference would look certain.
    tested = differences if n_seeds > 1 else {}
    adjusted = adjust_holm({method: difference.p_value for method, difference in tested.items()})
    front = pareto_front({
        method: (metrics[method]["utility"].mean, -metrics[method]["harmful_rate"].mean)
        for method in competing
        if {"utility", "harmful_rate"} <= metrics[method].keys()
    })  # fmt: skip
    return Standings(
        name=name,
        conditions=list(dict.fromkeys(condition for own in units.values() for condition in own)),
        n_seeds=n_seeds,
        best_rival=best,
        best_rival_name="" if best is None else roster.title(best),
        methods=[
            Standing(
                method=method,
                name=roster.title(method),
                metrics=metrics[method],
                rank=ranks.get(method),
                difference=differences.get(method),
                p_value=adjusted.get(method),
                extra_tokens=_plain_mean(units[method], "extra_tokens"),
                seconds=_plain_mean(units[method], "seconds"),
                peak_bytes=max(_values(units[method], "peak_bytes"), default=None),
                on_front=method in front,
            )
            for method in order
        ],
    )


def _values(units: Units, metric: str) -> list[float]:
    return [float(row[metric]) for by_seed in units.values() for row in by_seed.values() if row.get(metric) is not None]


def _plain_mean(units: Units, metric: str) -> float | None:
    return statistics.fmean(values) if (values := _values(units, metric)) else None


def _mean(units: Units, metric: str) -> MeanInterval | None:
    """Returns the mean of a metric over seeds, a seed's value being its mean over conditions.

    A single seed has no spread of its own; the interval that the run recorded stands in for it.
    """
    per_seed: dict[int, list[float]] = {}
    for by_seed in units.values():
        for seed, row in by_seed.items():
            if row.get(metric) is not None:
                per_seed.setdefault(seed, []).append(float(row[metric]))
    if not per_seed:
        return None
    found = mean_interval([statistics.fmean(values) for values in per_seed.values()], confidence=_CONFIDENCE)
    low, high = found.low, found.high
    if found.n == 1:
        lows, highs = _values(units, f"{metric}_low"), _values(units, f"{metric}_high")
        low = statistics.fmean(lows) if lows else found.mean
        high = statistics.fmean(highs) if highs else found.mean
    return MeanInterval(found.mean, max(0.0, low), min(1.0, high), found.n)


def _ranks(units: Mapping[str, Units]) -> dict[str, float]:
    conditions = [condition for own in units.values() for condition in own]
    table: dict[str, dict[str, float]] = {condition: {} for condition in conditions}
    for method, own in units.items():
        for condition in own:
            table[condition][method] = statistics.fmean(_values({condition: own[condition]}, _RANKED_BY))
    return mean_ranks(table) if table else {}


def _difference(units: Units, rival: Units) -> PairedDifference | None:
    """Returns the difference of Avg, where both were measured on the same draws."""
    mine, theirs = _by_unit(units, _RANKED_BY), _by_unit(rival, _RANKED_BY)
    if {c: s.keys() for c, s in mine.items()} != {c: s.keys() for c, s in theirs.items()}:
        return None
    return paired_bootstrap(mine, theirs, confidence=_CONFIDENCE, n_resamples=_N_RESAMPLES, seed=_SEED)


def _by_unit(units: Units, metric: str) -> dict[str, dict[int, float]]:
    return {c: {seed: float(row[metric]) for seed, row in by_seed.items()} for c, by_seed in units.items()}
