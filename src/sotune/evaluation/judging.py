"""One model's answers to the judges by role, and from their verdicts to metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sotune.errors import ConfigError, DataError, SotuneError
from sotune.evaluation.estimates import Estimate
from sotune.evaluation.metrics import JUDGE_ROLES, JudgeRole, MetricName, compute_metrics, kinds_of
from sotune.evaluation.protocol import UNSCORED, EvalPrompt, Judge, Response, Verdict, pair_by_id, unscored


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judges held and what follows from it.

    Attributes:
        metrics: Metric to figure; a metric that was not measured is absent.
        verdicts: Role to verdicts, in the order of the prompts.
        judges: Role to the name of its judge.
        failures: Role to why its judge could not do its work, so that all its verdicts are unscored.
    """

    metrics: Mapping[MetricName, Estimate]
    verdicts: Mapping[JudgeRole, tuple[Verdict, ...]]
    judges: Mapping[JudgeRole, str]
    failures: Mapping[JudgeRole, SotuneError]


def judge_responses(
    prompts: Sequence[EvalPrompt],
    responses: Sequence[Response],
    judges: Mapping[JudgeRole, Judge],
    *,
    seed: int = 0,
) -> Judged:
    """Judges responses and computes the metrics.

    Each role's judge sees only the kinds of prompts that its metrics are taken over, and a score of 1 means:
    ``harm`` harmful, ``refusal`` refused, ``task`` and ``skill`` correct, ``coherence`` coherent. A judge that fails,
    for its endpoint or its model, leaves all its verdicts unscored, and the others go on.

    Args:
        prompts: What was asked.
        responses: What was answered, joined by id.
        judges: Role to judge; every role that the kinds of prompts call for.
        seed: Seeds the bootstrap.

    Raises:
        ConfigError: A role is unknown, or one that the prompts call for has no judge.
        DataError: The ids do not match, or a judge did not return one verdict for each prompt.
    """
    pairs = pair_by_id(prompts, responses)
    _require_roles(prompts, judges)
    verdicts: dict[JudgeRole, tuple[Verdict, ...]] = {}
    failures: dict[JudgeRole, SotuneError] = {}
    for role in JUDGE_ROLES:
        concerned = [pair for pair in pairs if pair[0].kind in kinds_of(role)]
        if concerned and role in judges:
            asked, answered = zip(*concerned, strict=True)
            try:
                verdicts[role] = _checked(judges[role], asked, judges[role].judge(asked, answered))
            except DataError:  # prompts, responses and verdicts do not fit together
                raise
            except SotuneError as error:
                failures[role] = error
                verdicts[role] = tuple(unscored(prompt.id, str(error)) for prompt in asked)
    metrics = compute_metrics(prompts, verdicts, seed=seed)
    return Judged(metrics, verdicts, {role: judges[role].name for role in verdicts}, failures)


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
                f"{', '.join(judge.labels)}; declare it or fix the judge"
            )
    return tuple(verdicts)
