"""What changed from one model to another on the same prompts, metric by metric and prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sotune.errors import DataError
from sotune.evaluation.metrics import METRICS, JudgeRole, MetricName, MetricSpec
from sotune.evaluation.paired import PairedComparison, compare_paired, minimum_detectable_difference
from sotune.evaluation.protocol import EvalPrompt, Verdict, index_unique

POWER = 0.8  # the probability with which a detectable difference would be found; the usual choice


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two models on the same prompts.

    Attributes:
        comparison: The paired test, the second model first: a positive difference is a rise.
        detectable: The smallest rise or fall that as many prompts, unpaired, would show with probability 0.8.
        gained: Prompts on which the score went from 0 to 1.
        lost: Prompts on which it went from 1 to 0.
    """

    comparison: PairedComparison
    detectable: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def find_changes(
    prompts: Sequence[EvalPrompt],
    before: Mapping[JudgeRole, Sequence[Verdict]],
    after: Mapping[JudgeRole, Sequence[Verdict]],
    *,
    confidence: float,
) -> dict[MetricName, Change]:
    """Compares two models on each metric whose scores are 0 or 1 and on which some prompt was scored for both.

    A metric with graded scores, or that was not measured for both, is absent.

    Raises:
        DataError: The two models were not judged on the same prompts.
    """
    changes: dict[MetricName, Change] = {}
    for name, spec in METRICS.items():
        if spec.role not in before or spec.role not in after:
            continue
        first, second = (_scores(name, prompts, spec, held[spec.role]) for held in (before, after))
        both = [(a, b) for id in first if (a := first[id]) is not None and (b := second[id]) is not None]
        if not both or any(score not in (0.0, 1.0) for pair in both for score in pair):
            continue
        comparison = compare_paired(second, first, confidence=confidence)
        rate = sum(a for a, _ in both) / len(both)
        changes[name] = Change(
            comparison,
            minimum_detectable_difference(rate, comparison.n, power=POWER, confidence=confidence),
            gained=tuple(id for id in first if (first[id], second[id]) == (0.0, 1.0)),
            lost=tuple(id for id in first if (first[id], second[id]) == (1.0, 0.0)),
        )
    return changes


def _scores(
    name: str, prompts: Sequence[EvalPrompt], spec: MetricSpec, verdicts: Sequence[Verdict]
) -> dict[str, float | None]:
    held = index_unique("verdicts", verdicts)
    concerned = [prompt.id for prompt in prompts if prompt.kind in spec.kinds]
    missing = [id for id in concerned if id not in held]
    if missing:
        raise DataError(f"{name}: {len(missing)} prompts have no verdict, {missing[0]!r} among them; judge both models")
    return {id: held[id].score for id in concerned}
