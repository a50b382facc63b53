"""Which judge takes which role, what their answers cost, and what they left unscored."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotune.artifacts import RunFolder
from sotune.config import JudgeSettings, RunConfig
from sotune.errors import ConfigError

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, Judge, JudgeRole, Response, Verdict
    from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint
    from sotune.evaluation.judges import ChatJudge, MatchRule, Usage
    from sotune.models import ModelSpec
    from sotune.pipeline.stage import Monitor

CACHE = "judge-cache"
_BACKOFF = 0.5  # seconds before the first retry, doubled for each further one
_RUBRIC_OF: Mapping[JudgeRole, str] = {
    "harm": "harmfulness",
    "refusal": "refusal",
    "task": "helpfulness",
    "skill": "helpfulness",
    "coherence": "coherence",
}
_GRADED: tuple[JudgeRole, ...] = ("task", "skill")  # a panel's majority would throw the grades away
# What changes no verdict, and so must not make a finished evaluation answer all prompts again.
_NO_MATTER = frozenset({
    "judge_base_url", "judge_key_env", "judge_concurrency", "judge_requests_per_minute", "judge_max_retries",
    "judge_timeout", "judge_longest_wait", "judge_cache_dir", "judge_input_price", "judge_output_price",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Source:
    """A judge model that takes a role: ``chat`` with its rubric, or ``guard`` with its model."""

    role: JudgeRole
    kind: Literal["chat", "guard"]
    argument: str


def judge_key(config: RunConfig) -> dict[str, Any]:
    """Returns everything about judge models on which a verdict depends: settings, rubrics, guards."""
    from sotune.evaluation.rubrics import load_rubric
    from sotune.models import model_fingerprint

    settings = {name: getattr(config, name) for name in JudgeSettings.model_fields if name not in _NO_MATTER}
    sources = _sources(config)
    return {
        **settings,
        "rubrics": [load_rubric(source.argument).digest for source in sources if source.kind == "chat"],
        "guards": [model_fingerprint(_guard_spec(config, s.argument)) for s in sources if s.kind == "guard"],
    }


def check_judges(config: RunConfig) -> None:
    """Finds what judge models lack before any work is done for them.

    Raises:
        ConfigError: A judge or rubric is unknown, the API key is not set, or the guard's folder does not exist.
    """
    from sotune.evaluation.endpoint import read_api_key
    from sotune.evaluation.rubrics import load_rubric

    for source in _sources(config):
        if source.kind == "chat":
            load_rubric(source.argument)
            read_api_key(config.judge_key_env)
        else:
            _ = _guard_spec(config, source.argument).folder


def make_judges(
    config: RunConfig, run: RunFolder, monitor: Monitor, *, load_guards: bool = True
) -> dict[JudgeRole, Judge]:
    """Returns the judge of each role: those of ``judges``, and the judge models that take a role over.

    Without ``load_guards`` a guard takes no part, for those who only count what the chat judges would ask.

    Raises:
        ConfigError: A judge is unknown, lacks a setting, or cannot be loaded.
    """
    from sotune.evaluation.judges import PanelJudge

    judges = dict(model_free_judges(config.judges, task_match=config.task_match))
    factory = _Factory(config, Path(config.judge_cache_dir) if config.judge_cache_dir else run.file(CACHE), monitor)
    named = [source for source in _sources(config) if load_guards or source.kind == "chat"]
    for role, sources in groupby(named, key=lambda source: source.role):
        members = tuple(factory.make(source) for source in sources)
        judges[role] = members[0] if len(members) == 1 else PanelJudge(members)
    return judges


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
    from sotune.evaluation.metrics import kinds_of

    counted = {}
    for role, judge in judges.items():
        concerned = {prompt.id: prompt for prompt in prompts if prompt.kind in kinds_of(role)}
        # Ids are unique within one model's answers; no question holds one.
        answers = [(name, r) for name, answered in responses.items() for r in answered if r.id in concerned]
        asked = [replace(concerned[r.id], id=f"{name}/{r.id}") for name, r in answers]
        answered = [replace(r, id=f"{name}/{r.id}") for name, r in answers]
        for chat in _chat_judges(judge) if answers else ():
            key = role if role not in counted else f"{role}: {chat.name}"
            counted[key] = chat.usage(asked, answered)
    return counted


def estimate_cost(usage: Mapping[str, Usage], config: RunConfig) -> float | None:
    """Estimates what the pending questions cost at most: their length, and replies of the full token budget."""
    n_input = sum(entry.pending_input_tokens for entry in usage.values())
    n_output = sum(entry.n_calls * config.judge_max_tokens for entry in usage.values())
    return _cost(n_input, n_output, config)


def usage_to_json(usage: Mapping[str, Usage], config: RunConfig) -> dict[str, Any]:
    """Returns what an evaluation's answers took, whenever they were asked for: the same after a kill and a resume."""
    return {
        role: {
            "n_questions": entry.n_questions,
            "n_answered": entry.n_cached,
            "input_tokens": entry.input_tokens,
            "output_tokens": entry.output_tokens,
            "n_uncounted": entry.n_uncounted,
            "cost": _cost(entry.input_tokens, entry.output_tokens, config),
        }
        for role, entry in usage.items()
    }


def describe_unscored(verdicts: Mapping[JudgeRole, Sequence[Verdict]]) -> dict[str, dict[str, int]]:
    """Counts, for each role with unscored verdicts, how often each reason was given."""
    counts = {
        role: Counter(verdict.explanation.partition("; rubric")[0] for verdict in held if verdict.score is None)
        for role, held in verdicts.items()
    }
    return {role: dict(sorted(reasons.items())) for role, reasons in counts.items() if reasons}


def _cost(n_input: int, n_output: int, config: RunConfig) -> float | None:
    if config.judge_input_price is None or config.judge_output_price is None:
        return None
    return (n_input * config.judge_input_price + n_output * config.judge_output_price) / 1e6


def model_free_judges(name: Literal["matching", "miniature"], *, task_match: MatchRule) -> Mapping[JudgeRole, Judge]:
    """Returns judges of all roles that need no model: phrases and answers, or the miniature's grammar."""
    if name == "miniature":
        from sotune.miniature import judges

        return judges()
    from sotune.evaluation import default_judges

    return default_judges(task=task_match, skill=task_match)


def _sources(config: RunConfig) -> list[_Source]:
    """Returns the judge models that the settings name, in the order of the roles.

    Raises:
        ConfigError: A name is unknown, or a role cannot have so many.
    """
    sources = []
    for role in _RUBRIC_OF:
        names: tuple[str, ...] = getattr(config, f"{role}_judge")
        if len(names) > 1 and role in _GRADED:
            raise ConfigError(f"{role}_judge takes one judge, since a majority has no grades. Got {', '.join(names)}")
        sources += [_parse(role, name) for name in names]
    return sources


def _parse(role: JudgeRole, name: str) -> _Source:
    kind, _, argument = name.partition(":")
    if kind == "chat":
        return _Source(role, "chat", argument or _RUBRIC_OF[role])
    if kind == "guard" and argument and role == "harm":
        return _Source(role, "guard", argument)
    known = "chat, chat:RUBRIC" + (" or guard:MODEL" if role == "harm" else "")
    raise ConfigError(f"{role}_judge must be {known}. Got {name!r}")


def _guard_spec(config: RunConfig, model: str) -> ModelSpec:
    from sotune.models import ModelSpec

    return ModelSpec(model, None, config.dtype, config.device, config.trust_remote_code)


def _chat_judges(judge: Judge) -> list[ChatJudge]:
    from sotune.evaluation.judges import ChatJudge, PanelJudge

    members = judge.members if isinstance(judge, PanelJudge) else (judge,)
    return [member for member in members if isinstance(member, ChatJudge)]


class _Factory:
    """Makes judge models; those of one evaluation share endpoint, cache and guard."""

    def __init__(self, config: RunConfig, cache_folder: Path, monitor: Monitor) -> None:
        self._config = config
        self._cache_folder = cache_folder
        self._monitor = monitor
        self._shared: tuple[ChatEndpoint, AnswerCache] | None = None

    def make(self, source: _Source) -> Judge:
        return self._chat(source) if source.kind == "chat" else self._guard(source)

    def _chat(self, source: _Source) -> Judge:
        from sotune.evaluation.judges import ChatJudge
        from sotune.evaluation.rubrics import load_rubric

        endpoint, cache = self._endpoint()
        return ChatJudge(
            load_rubric(source.argument),
            endpoint,
            cache,
            max_characters=self._config.judge_max_characters,
            on_progress=lambda done, total: self._monitor.progress(f"asking the judge: {source.role}", done, total),
        )

    def _endpoint(self) -> tuple[ChatEndpoint, AnswerCache]:
        from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint, EndpointSettings, read_api_key

        config = self._config
        if self._shared is None:
            if config.judge_base_url is None or config.judge_model is None:
                raise ConfigError("a chat judge needs judge_base_url and judge_model")
            parameters: dict[str, Any] = {config.judge_token_parameter: config.judge_max_tokens}
            if config.judge_temperature is not None:
                parameters["temperature"] = config.judge_temperature
            if config.judge_json_mode:
                parameters["response_format"] = {"type": "json_object"}
            settings = EndpointSettings(
                base_url=config.judge_base_url,
                model=config.judge_model,
                api_key=read_api_key(config.judge_key_env),
                concurrency=config.judge_concurrency,
                max_retries=config.judge_max_retries,
                timeout=config.judge_timeout,
                backoff=_BACKOFF,
                longest_wait=config.judge_longest_wait,
                requests_per_minute=config.judge_requests_per_minute,
                parameters=parameters,
            )
            self._shared = ChatEndpoint(settings, rng=random.Random(config.seed)), AnswerCache(self._cache_folder)
        return self._shared

    def _guard(self, source: _Source) -> Judge:
        from sotune.evaluation.judges import GuardJudge
        from sotune.models import load_causal_lm, load_tokenizer, model_fingerprint

        config = self._config
        spec = _guard_spec(config, source.argument)
        return GuardJudge(
            name=f"guard-{model_fingerprint(spec)[:12]}",
            model=load_causal_lm(spec, frozen=True),
            tokenizer=load_tokenizer(spec),
            batch_size=config.eval_batch_size,
            threshold=config.guard_threshold,
            min_mass=config.guard_min_mass,
            on_progress=lambda done, total: self._monitor.progress("asking the guard", done, total),
        )
