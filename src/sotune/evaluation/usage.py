"""What judging takes: how much is asked of an endpoint, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotune.errors import ConfigError
from sotune.evaluation.judges.naming import CountsUsage, Usage
from sotune.evaluation.judges.panel import PanelJudge
from sotune.evaluation.metrics import JudgeRole, kinds_of
from sotune.evaluation.protocol import EvalPrompt, Judge, Response
from sotune.settings import JudgeSettings
from sotune.wording import counted

CACHE = "judge-cache"
"""Folder of the answers of chat judges, beside the results."""


@dataclass(frozen=True)
class JudgingPlan:
    """What judging would ask of the endpoint.

    Attributes:
        n_items: Answers to judge, once for each role.
        n_calls: Questions to ask: distinct ones without an answer in the cache.
        n_cached: Questions whose answers are there.
        input_tokens: A rough count, four characters to a token.
        cost: At most, in the currency of the prices: replies that use all of judge_max_tokens. None without prices.
    """

    n_items: int
    n_calls: int
    n_cached: int
    input_tokens: int
    cost: float | None


def count_usage(
    judges: Mapping[JudgeRole, Judge],
    prompts: Sequence[EvalPrompt],
    responses: Mapping[str, Sequence[Response]],
) -> dict[str, Usage]:
    """Counts, for each role that a chat judge has a part in, what its answers take.

    Args:
        judges: Role to judge.
        prompts: What was asked.
        responses: Model to its answers. Where two models answer alike, the judge is asked once.
    """
    counted: dict[str, Usage] = {}
    for role, judge in judges.items():
        concerned = {prompt.id: prompt for prompt in prompts if prompt.kind in kinds_of(role)}
        # Ids are unique within one model's answers; no question holds one.
        answers = [(name, r) for name, answered in responses.items() for r in answered if r.id in concerned]
        asked = [replace(concerned[r.id], id=f"{name}/{r.id}") for name, r in answers]
        answered = [replace(r, id=f"{name}/{r.id}") for name, r in answers]
        for member in judge.members if isinstance(judge, PanelJudge) else (judge,):
            if answers and isinstance(member, CountsUsage):
                counted[role if role not in counted else f"{role}: {member.name}"] = member.usage(asked, answered)
    return counted


def plan_questions(
    judges: Mapping[JudgeRole, Judge],
    prompts: Sequence[EvalPrompt],
    responses: Mapping[str, Sequence[Response]],
    settings: JudgeSettings,
) -> JudgingPlan:
    """Counts what the chat judges would ask of the endpoint about answers; asks it nothing.

    Raises:
        ConfigError: No chat judge is named.
    """
    usage = count_usage(judges, prompts, responses)
    if not usage:
        raise ConfigError("no chat judge is named, so nothing would be asked; name one, like harm_judge: chat")
    n_input = sum(entry.pending_input_tokens for entry in usage.values())
    n_calls = sum(entry.n_calls for entry in usage.values())
    return JudgingPlan(
        n_items=sum(entry.n_items for entry in usage.values()),
        n_calls=n_calls,
        n_cached=sum(entry.n_cached for entry in usage.values()),
        input_tokens=n_input,
        cost=_cost(n_input, n_calls * settings.judge_max_tokens, settings),
    )


def describe_usage(
    judges: Mapping[JudgeRole, Judge],
    prompts: Sequence[EvalPrompt],
    responses: Mapping[str, Sequence[Response]],
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Returns, as JSON, what the answers of chat judges took, as ``count_usage`` counts it, and what they cost.

    All answers in the cache count, whenever they were asked for: the same after a kill and a resume.
    """
    return {
        role: {
            "n_questions": entry.n_questions,
            "n_answered": entry.n_cached,
            "input_tokens": entry.input_tokens,
            "output_tokens": entry.output_tokens,
            "n_uncounted": entry.n_uncounted,
            "cost": _cost(entry.input_tokens, entry.output_tokens, settings),
        }
        for role, entry in count_usage(judges, prompts, responses).items()
    }


def summarize_judging(judging: Mapping[str, Any]) -> dict[str, str]:
    """Returns what judging took and left unscored, to be shown, from the ``judging`` of an evaluation."""
    unscored = sum(sum(reasons.values()) for roles in judging["unscored"].values() for reasons in roles.values())
    return {**summarize_usage(judging["usage"]), "unscored verdicts": f"{unscored:,}"}


def summarize_usage(usage: Mapping[str, Any]) -> dict[str, str]:
    """Returns what all chat judges took together, to be shown; nothing without any."""
    return {"judge's cost": tell_usage(usage.values())} if usage else {}


def tell_usage(entries: Collection[Mapping[str, Any]]) -> str:
    """Says what some chat judges took together, from entries of what ``describe_usage`` returned."""
    answers, n_input, n_output = (
        sum(entry[name] for entry in entries) for name in ("n_answered", "input_tokens", "output_tokens")
    )
    costs = [entry["cost"] for entry in entries]
    cost = "" if None in costs else f", at a cost of {sum(costs):.4f}"
    return f"{counted(answers, 'answer')}, {counted(n_input, 'token')} in, {n_output:,} out{cost}"


def _cost(n_input: int, n_output: int, settings: JudgeSettings) -> float | None:
    if settings.judge_input_price is None or settings.judge_output_price is None:
        return None
    return (n_input * settings.judge_input_price + n_output * settings.judge_output_price) / 1e6
