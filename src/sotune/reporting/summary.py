"""From the list of runs in ``compare.json`` to one summary of each method under each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotune.errors import ArtifactError
from sotune.evaluation.assessment import Limits
from sotune.reporting.figures import Interval, finite
from sotune.reporting.roster import Roster

METRICS = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")
LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """One method under one condition, over its seeds.

    Attributes:
        method: Its key in ``compare.json``.
        name: Its name in plain words.
        runs: Its rows, by seed.
        metrics: Metric to the mean over seeds, between the lowest and highest end of the seeds' own intervals;
            ``None`` when no seed has it.
        competes: Whether it competes with others.
        broken: Whether its answers are so incoherent that few harmful ones say nothing about safety.
    """

    method: str
    name: str
    runs: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Interval | None]
    competes: bool
    broken: bool

    def mean(self, metric: str) -> float | None:
        """Returns the mean of a metric over the seeds."""
        interval = self.metrics[metric]
        return None if interval is None else interval.mean

    @property
    def seconds(self) -> float | None:
        """Mean time of a run."""
        seconds = finite(run.get("seconds") for run in self.runs)
        return float(seconds.mean()) if len(seconds) else None

    @property
    def peak_bytes(self) -> float | None:
        """Largest peak memory of a run."""
        peaks = finite(run.get("peak_bytes") for run in self.runs)
        return float(peaks.max()) if len(peaks) else None


@dataclass(frozen=True, slots=True)
class Condition:
    """All methods on one data set with one harmful share.

    Attributes:
        dataset: Its name.
        harmful_fraction: Harmful share of the mixture, in [0, 1].
        methods: The methods, by key, in the order of `Roster.in_order`.
        ours: Which of them stands for sotune; ``None`` where none of its variants was measured.
    """

    dataset: str
    harmful_fraction: float | None
    methods: Mapping[str, MethodSummary]
    ours: str | None


def summarize(runs: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """Groups runs into conditions, in the order of their first run.

    Raises:
        ArtifactError: There is no run, or one names no method.
    """
    if not runs:
        raise ArtifactError("compare.json holds no runs; run the comparison again")
    groups: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for run in runs:
        if not isinstance(run, dict) or "method" not in run:
            raise ArtifactError("compare.json must hold objects with a method each; run the comparison again")
        groups.setdefault((str(run.get("dataset") or "unnamed data"), run.get("harmful_fraction")), []).append(run)
    roster = Roster.of(runs)
    return [_condition(dataset, fraction, members, roster) for (dataset, fraction), members in groups.items()]


def _condition(
    dataset: str, harmful_fraction: float | None, runs: Sequence[Mapping[str, Any]], roster: Roster
) -> Condition:
    ordered = roster.in_order(str(run["method"]) for run in runs)
    runs_of = {method: [run for run in runs if str(run["method"]) == method] for method in ordered}
    base = _interval(runs_of.get("base", []), "coherence")
    floor = LIMITS.min_coherence * (1.0 if base is None else base.mean)
    methods = {}
    for method, members in runs_of.items():
        metrics = {metric: _interval(members, metric) for metric in METRICS}
        coherence = metrics["coherence"]
        methods[method] = MethodSummary(
            method=method,
            name=roster.title(method),
            runs=sorted(members, key=lambda run: run.get("seed") or 0),
            metrics=metrics,
            competes=roster.competes(method),
            broken=coherence is not None and coherence.mean < floor,
        )
    return Condition(dataset, harmful_fraction, methods, roster.find_ours(methods))


def _interval(runs: Sequence[Mapping[str, Any]], metric: str) -> Interval | None:
    values = finite(run.get(metric) for run in runs)
    if not len(values):
        return None
    lows = finite([run.get(f"{metric}_low") for run in runs] + [run.get(metric) for run in runs])
    highs = finite([run.get(f"{metric}_high") for run in runs] + [run.get(metric) for run in runs])
    return Interval(float(values.mean()), float(lows.min()), float(highs.max()))
