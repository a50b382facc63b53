"""From the list of runs in ``compare.json`` to one summary of each method under each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import read_json
from sotune.errors import ArtifactError
from sotune.evaluation.assessment import Limits
from sotune.reporting.figures import Interval, finite
from sotune.reporting.roster import Roster

METRIC_TITLES: Mapping[str, tuple[str, str]] = {
    "harmful_rate": ("harmful answers", "↓"),
    "refusal_rate": ("refusals of harmful prompts", "↑"),
    "over_refusal": ("over-refusal", "↓"),
    "utility": ("task accuracy", "↑"),
    "skill": ("old skills", "↑"),
    "coherence": ("coherent answers", "↑"),
    "avg": ("Avg", "↑"),
}
"""Metric to its name in plain words and the direction that is better."""

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


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Reads the rows of ``compare.json``.

    Raises:
        ArtifactError: It is missing, or holds no runs, or one that names no method.
    """
    runs = read_json(folder / "compare.json")
    if not isinstance(runs, list) or not runs:
        raise ArtifactError(f"{folder / 'compare.json'} must hold a list of runs; run the comparison again")
    if not all(isinstance(run, dict) and "method" in run for run in runs):
        raise ArtifactError("compare.json must hold objects with a method each; run the comparison again")
    return runs


def summarize(runs: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """Groups runs into conditions, in the order of their first run."""
    groups: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for run in runs:
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
