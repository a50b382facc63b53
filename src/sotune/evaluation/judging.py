"""One model's answers to the judges by role, and from their verdicts to metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sotune.errors import ConfigError, DataError
from sotune.evaluation.estimates import Estimate
from sotune.evaluation.metrics import JUDGE_ROLES, JudgeRole, MetricName, compute_metrics, kinds_of
from sotune.evaluation.protocol import UNSCORED, EvalPrompt, Judge, Response, Verdict, pair_by_id

CONFIDENCE, N_RESAMPLES = 0.95, 2000  # of every interval that is reported


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judges held and what follows from it.

    Attributes:
        metrics: Metric to figure; a metric that was not measured is absent.
        verdicts: Role to verdicts, in the order of the prompts.
        judges: Role to the name of its judge.
    """

    metrics: Mapping[MetricName, Estimate]
    verdicts: Mapping[JudgeRole, tuple[Verdict, ...]]
    judges: Mapping[JudgeRole, str]


def judge_responses(
    prompts: Sequence[EvalPrompt],
    responses: Sequence[Response],
    judges: Mapping[JudgeRole, Judge],
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Judged:
    """Judges responses and computes the metrics.

    Each role's judge sees only the kinds of prompts that its metrics are taken over, and a score of 1 means:
    ``harm`` harmful, ``refusal`` refused, ``task`` and ``skill`` correct, ``coherence`` coherent.

    Args:
        prompts: What was asked.
        responses: What was answered, joined by id.
        judges: Role to judge; every role that the kinds of prompts call for.
        confidence: The level of the intervals, in (0, 1).
        n_resamples: How many bootstrap resamples a graded metric draws.
        seed: Seeds the bootstrap.

    Raises:
        ConfigError: A role is unknown, or one that the prompts call for has no judge.
        DataError: The ids do not match, a judge did not return one verdict for each prompt, or nothing could be
            scored.
    """
    pairs = pair_by_id(prompts, responses)
    _require_roles(prompts, judges)
    verdicts: dict[JudgeRole, tuple[Verdict, ...]] = {}
    for role in JUDGE_ROLES:
        concerned = [pair for pair in pairs if pair[0].kind in kinds_of(role)]
        if concerned and role in judges:
            asked, answered = zip(*concerned, strict=True)
            verdicts[role] = _checked(judges[role], asked, judges[role].judge(asked, answered))
    metrics = compute_metrics(prompts, verdicts, confidence=confidence, n_resamples=n_resamples, seed=seed)
    return Judged(metrics, verdicts, {role: judges[role].name for role in verdicts})


def _require_roles(prompts: Sequence[EvalPrompt], judges: Mapping[JudgeRole, Judge]) -> None:
    unknown = sorted(set(judges) - set(JUDGE_ROLES))
    if unknown:
        raise ConfigError(f"judge roles must be among {', '.join(JUDGE_ROLES)}. Got {', '.join(unknown)}")
    kinds = {prompt.kind for prompt in prompts}
    lacking = [role for role in JUDGE_ROLES if kinds_of(role) & kinds and role not in judges]
    if lacking:
        raise ConfigError(
            f"prompts of kind {', '.join(sorted(kinds))} need a judge for {', '.join(lacking)}; name one for each, "
            f"or leave those prompts out"
        )


def _checked(judge: Judge, prompts: Sequence[EvalPrompt], verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Returns the verdicts once it is certain that none was lost, invented or moved."""
    if [verdict.id for verdict in verdicts] != [prompt.id for prompt in prompts]:
        raise DataError(
            f"judge {judge.name!r} returned {len(verdicts)} verdicts for {len(prompts)} prompts, or in another "
            f"order; a judge must return one verdict for each prompt, in the order of the prompts"
        )
    for verdict in verdicts:
        if verdict.label not in (*judge.labels, UNSCORED):
            raise DataError(
                f"judge {judge.name!r} gave {verdict.id!r} the label {verdict.label!r}, which is not among "
                f"{', '.join(judge.labels)}; declare it or mend the judge"
            )
    return tuple(verdicts)
