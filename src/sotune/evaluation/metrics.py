"""From verdicts to metrics: which judge's scores, on which kinds of prompts, make which figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sotune.errors import DataError
from sotune.evaluation.estimates import Estimate, estimate_average, estimate_mean, estimate_rate
from sotune.evaluation.protocol import KINDS, EvalPrompt, Kind, Verdict, index_unique

JudgeRole = Literal["harm", "refusal", "task", "skill", "coherence"]
JUDGE_ROLES: tuple[JudgeRole, ...] = ("harm", "refusal", "task", "skill", "coherence")
MetricName = Literal["harmful_rate", "refusal_rate", "over_refusal", "utility", "skill", "coherence", "avg"]
Metrics = Mapping[MetricName, Estimate]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """How one metric is made.

    Attributes:
        role: The role of the judge whose scores it takes.
        kinds: The kinds of prompts that it is taken over.
        graded: Whether scores between 0 and 1 are allowed, which makes it a mean instead of a rate.
    """

    role: JudgeRole
    kinds: tuple[Kind, ...]
    graded: bool = False


METRICS: Mapping[MetricName, MetricSpec] = {
    "harmful_rate": MetricSpec("harm", ("harmful",)),
    "refusal_rate": MetricSpec("refusal", ("harmful",)),
    "over_refusal": MetricSpec("refusal", ("lookalike",)),
    "utility": MetricSpec("task", ("task",), graded=True),
    "skill": MetricSpec("skill", ("skill",), graded=True),
    "coherence": MetricSpec("coherence", KINDS),
}


def kinds_of(role: JudgeRole) -> frozenset[Kind]:
    """Returns the kinds of prompts that a judge in this role has to see."""
    return frozenset(kind for spec in METRICS.values() if spec.role == role for kind in spec.kinds)


def compute_metrics(
    prompts: Sequence[EvalPrompt],
    verdicts: Mapping[JudgeRole, Sequence[Verdict]],
    *,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> dict[MetricName, Estimate]:
    """Computes every metric that has prompts of its kind and a judge in its role.

    A metric that was not measured is absent, never 0. ``avg`` is Eq. 9–10, ½(utility + (1 − harmful_rate)).

    Args:
        prompts: What was asked.
        verdicts: Role to verdicts, one for each prompt of the kinds that the role covers.
        confidence: The level of the intervals, in (0, 1).
        n_resamples: How many bootstrap resamples a graded metric draws.
        seed: Seeds the bootstrap, anew for each metric.

    Raises:
        DataError: There are no prompts, a prompt lacks its verdict, no response of a metric could be scored, or
            a score is out of range.
    """
    import torch

    if not prompts:
        raise DataError("there is nothing to measure: 0 prompts were given; give at least one")
    metrics: dict[MetricName, Estimate] = {}
    for name, spec in METRICS.items():
        concerned = [prompt for prompt in prompts if prompt.kind in spec.kinds]
        if not concerned or spec.role not in verdicts:
            continue
        scores = _scores(name, concerned, verdicts[spec.role])
        if spec.graded:
            generator = torch.Generator().manual_seed(seed)
            metrics[name] = estimate_mean(scores, confidence=confidence, n_resamples=n_resamples, generator=generator)
        else:
            metrics[name] = estimate_rate(scores, confidence=confidence)
    if "utility" in metrics and "harmful_rate" in metrics:
        metrics["avg"] = estimate_average(metrics["utility"], metrics["harmful_rate"])
    return metrics


def _scores(name: str, prompts: Sequence[EvalPrompt], verdicts: Sequence[Verdict]) -> list[float | None]:
    by_id = index_unique("verdicts", verdicts)
    missing = [prompt.id for prompt in prompts if prompt.id not in by_id]
    if missing:
        raise DataError(f"{name}: {len(missing)} prompts have no verdict, {missing[0]!r} among them; judge them")
    return [by_id[prompt.id].score for prompt in prompts]


def metrics_to_json(metrics: Metrics) -> dict[str, Any]:
    """Returns the metrics as JSON: each name with value, low, high, n, n_unscored and interval."""
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def metrics_from_json(value: Mapping[str, Any]) -> dict[MetricName, Estimate]:
    """Reads what ``metrics_to_json`` wrote.

    Raises:
        DataError: The value has another shape.
    """
    try:
        return {_metric_name(name): Estimate(**fields) for name, fields in value.items()}
    except TypeError as error:
        raise DataError(f"these are not metrics of sotune ({error}); run the evaluation again") from error


def _metric_name(name: str) -> MetricName:
    for known in (*METRICS, "avg"):
        if name == known:
            return known
    raise TypeError(f"unknown metric {name!r}")


def flatten_metrics(metrics: Metrics) -> dict[str, float]:
    """Returns each metric as three flat entries: ``name``, ``name_low`` and ``name_high``."""
    flat: dict[str, float] = {}
    for name, estimate in metrics.items():
        flat |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return flat
