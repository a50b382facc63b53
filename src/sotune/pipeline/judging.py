"""Which judge takes which role, what their answers cost, and what they left unscored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotune.errors import ConfigError
from sotune.settings import JudgeSettings

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, Judge, JudgeRole, Response, Verdict
    from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint
    from sotune.evaluation.judges import ChatJudge, MatchRule, Usage
    from sotune.models import ModelSpec
    from sotune.monitoring import Monitor
    from sotune.pipeline.measuring import Measurement
    from sotune.pipeline.stage import Figures

CACHE = "judge-cache"
_SHOWN_REASONS = 3
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
    "judge_timeout", "judge_cache_dir", "judge_input_price", "judge_output_price",
    "device", "trust_remote_code",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Source:
    """A judge model that takes a role: ``chat`` with its rubric, ``guard`` or ``classifier`` with its model."""

    role: JudgeRole
    kind: Literal["chat", "guard", "classifier"]
    argument: str


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


def judge_key(settings: JudgeSettings) -> dict[str, Any]:
    """Returns everything about judges on which a verdict depends: settings, rubrics, models by their content."""
    from sotune.evaluation.rubrics import load_rubric
    from sotune.models import model_fingerprint

    values = {name: getattr(settings, name) for name in JudgeSettings.model_fields if name not in _NO_MATTER}
    sources = _sources(settings)
    return {
        **values,
        "rubrics": [load_rubric(source.argument).digest for source in sources if source.kind == "chat"],
        "models": [model_fingerprint(_model_spec(settings, s.argument)) for s in sources if s.kind != "chat"],
    }


def check_judges(settings: JudgeSettings) -> None:
    """Finds what judge models lack before any work is done for them.

    Raises:
        ConfigError: A judge or rubric is unknown, the API key is not set, or a model's folder does not exist.
    """
    from sotune.evaluation.endpoint import read_api_key
    from sotune.evaluation.rubrics import load_rubric

    for source in _sources(settings):
        if source.kind == "chat":
            load_rubric(source.argument)
            read_api_key(settings.judge_key_env)
        else:
            _ = _model_spec(settings, source.argument).folder


def make_judges(
    settings: JudgeSettings, cache: Path, monitor: Monitor, *, load_models: bool = True
) -> dict[JudgeRole, Judge]:
    """Returns the judge of each role: those of ``judges``, and the judge models that take a role over.

    Args:
        settings: Of a run, of an evaluation without one, or of a judge's check.
        cache: Folder for the answers of chat judges, where ``judge_cache_dir`` names no other.
        monitor: Is told of progress.
        load_models: False leaves guards and classifiers out, for those who only count what chat judges would ask.

    Raises:
        ConfigError: A judge is unknown, lacks a setting, or cannot be loaded.
    """
    from sotune.evaluation.judges import PanelJudge

    judges = dict(model_free_judges(settings.judges, task_match=settings.task_match))
    factory = _Factory(settings, Path(settings.judge_cache_dir) if settings.judge_cache_dir else cache, monitor)
    named = [source for source in _sources(settings) if load_models or source.kind == "chat"]
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


def describe_judging(
    prompts: Sequence[EvalPrompt], measurement: Measurement, *, settings: JudgeSettings, monitor: Monitor
) -> dict[str, Any]:
    """Returns, as JSON, what judging took and what it left unscored, and warns of the latter.

    What it took counts all answers in the cache, whenever they were asked for: the same after a kill and a resume.

    Args:
        prompts: What was asked.
        measurement: What was answered, and by whom and how it was judged.
        settings: Hold the prices.
        monitor: Is warned of unscored answers.
    """
    unscored = {name: _count_unscored(entry.result.verdicts) for name, entry in measurement.models.items()}
    for name, roles in unscored.items():
        for role, reasons in roles.items():
            most = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_REASONS]
            told = "; ".join(f"{count} times: {reason}" for reason, count in most)
            monitor.warn(f"judge of {role}, {name} model: {sum(reasons.values())} answers unscored ({told})")
    responses = {name: entry.responses for name, entry in measurement.models.items()}
    return {"usage": describe_usage(measurement.judges, prompts, responses, settings), "unscored": unscored}


def describe_usage(
    judges: Mapping[JudgeRole, Judge],
    prompts: Sequence[EvalPrompt],
    responses: Mapping[str, Sequence[Response]],
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Returns, as JSON, what the answers of chat judges took, as ``count_usage`` counts it, and what they cost."""
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


def summarize_judging(judging: Mapping[str, Any]) -> Figures:
    """Returns what judging took and left unscored, to be shown, from what ``describe_judging`` returned."""
    unscored = sum(sum(reasons.values()) for roles in judging["unscored"].values() for reasons in roles.values())
    return {**summarize_usage(judging["usage"]), "unscored verdicts": f"{unscored:,}"}


def summarize_usage(usage: Mapping[str, Any]) -> Figures:
    """Returns what chat judges took, to be shown, from what ``describe_usage`` returned; nothing without any."""
    if not usage:
        return {}
    entries = usage.values()
    tokens = " + ".join(
        f"{sum(entry[name] for entry in entries):,} {label}"
        for name, label in (("input_tokens", "in"), ("output_tokens", "out"))
    )
    figures = {"judge's answers": f"{sum(entry['n_answered'] for entry in entries):,}", "judge's tokens": tokens}
    if all(entry["cost"] is not None for entry in entries):
        figures["judge's cost"] = f"{sum(entry['cost'] for entry in entries):.4f}"
    return figures


def _count_unscored(verdicts: Mapping[JudgeRole, Sequence[Verdict]]) -> dict[str, dict[str, int]]:
    """Counts, for each role with unscored verdicts, how often each reason was given."""
    counts = {
        role: Counter(verdict.explanation.partition("; rubric")[0] for verdict in held if verdict.score is None)
        for role, held in verdicts.items()
    }
    return {role: dict(sorted(reasons.items())) for role, reasons in counts.items() if reasons}


def _cost(n_input: int, n_output: int, settings: JudgeSettings) -> float | None:
    if settings.judge_input_price is None or settings.judge_output_price is None:
        return None
    return (n_input * settings.judge_input_price + n_output * settings.judge_output_price) / 1e6


def model_free_judges(name: Literal["matching", "miniature"], *, task_match: MatchRule) -> Mapping[JudgeRole, Judge]:
    """Returns judges of all roles that need no model: phrases and answers, or the miniature's grammar."""
    if name == "miniature":
        from sotune.miniature import judges

        return judges()
    from sotune.evaluation import default_judges

    return default_judges(task=task_match, skill=task_match)


def _sources(settings: JudgeSettings) -> list[_Source]:
    """Returns the judge models that the settings name, in the order of the roles.

    Raises:
        ConfigError: A name is unknown, or a role cannot have so many.
    """
    sources = []
    for role in _RUBRIC_OF:
        names: tuple[str, ...] = getattr(settings, f"{role}_judge")
        if len(names) > 1 and role in _GRADED:
            raise ConfigError(f"{role}_judge takes one judge, since a majority has no grades. Got {', '.join(names)}")
        sources += [_parse(role, name) for name in names]
    return sources


def _parse(role: JudgeRole, name: str) -> _Source:
    kind, _, argument = name.partition(":")
    if kind == "chat":
        return _Source(role, "chat", argument or _RUBRIC_OF[role])
    if kind in ("guard", "classifier") and argument and role == "harm":
        return _Source(role, "guard" if kind == "guard" else "classifier", argument)
    known = "chat, chat:RUBRIC, guard:MODEL or classifier:MODEL" if role == "harm" else "chat or chat:RUBRIC"
    raise ConfigError(f"{role}_judge must be {known}. Got {name!r}")


def _model_spec(settings: JudgeSettings, model: str) -> ModelSpec:
    from sotune.models import ModelSpec

    return ModelSpec(model, None, settings.dtype, settings.device, settings.trust_remote_code)


def _chat_judges(judge: Judge) -> list[ChatJudge]:
    from sotune.evaluation.judges import ChatJudge, PanelJudge

    members = judge.members if isinstance(judge, PanelJudge) else (judge,)
    return [member for member in members if isinstance(member, ChatJudge)]


class _Factory:
    """Makes judge models; those of one evaluation share endpoint and cache."""

    def __init__(self, settings: JudgeSettings, cache_folder: Path, monitor: Monitor) -> None:
        self._settings = settings
        self._cache_folder = cache_folder
        self._monitor = monitor
        self._shared: tuple[ChatEndpoint, AnswerCache] | None = None

    def make(self, source: _Source) -> Judge:
        makers = {"chat": self._chat, "guard": self._guard, "classifier": self._classifier}
        return makers[source.kind](source)

    def _chat(self, source: _Source) -> Judge:
        from sotune.evaluation.judges import ChatJudge
        from sotune.evaluation.rubrics import load_rubric

        endpoint, cache = self._endpoint()
        return ChatJudge(
            load_rubric(source.argument),
            endpoint,
            cache,
            max_characters=self._settings.judge_max_characters,
            on_progress=lambda done, total: self._monitor.progress(f"asking the judge: {source.role}", done, total),
        )

    def _endpoint(self) -> tuple[ChatEndpoint, AnswerCache]:
        from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint, EndpointSettings, read_api_key

        chosen = self._settings
        if self._shared is None:
            if chosen.judge_base_url is None or chosen.judge_model is None:
                raise ConfigError("a chat judge needs judge_base_url and judge_model")
            parameters: dict[str, Any] = {chosen.judge_token_parameter: chosen.judge_max_tokens}
            if chosen.judge_temperature is not None:
                parameters["temperature"] = chosen.judge_temperature
            if chosen.judge_json_mode:
                parameters["response_format"] = {"type": "json_object"}
            settings = EndpointSettings(
                base_url=chosen.judge_base_url,
                model=chosen.judge_model,
                api_key=read_api_key(chosen.judge_key_env),
                concurrency=chosen.judge_concurrency,
                max_retries=chosen.judge_max_retries,
                timeout=chosen.judge_timeout,
                requests_per_minute=chosen.judge_requests_per_minute,
                parameters=parameters,
            )
            self._shared = ChatEndpoint(settings), AnswerCache(self._cache_folder)
        return self._shared

    def _guard(self, source: _Source) -> Judge:
        from sotune.evaluation.judges import GuardJudge
        from sotune.models import load_causal_lm, load_tokenizer, model_fingerprint

        settings = self._settings
        spec = _model_spec(settings, source.argument)
        return GuardJudge(
            name=f"guard-{model_fingerprint(spec)[:12]}",
            model=load_causal_lm(spec, frozen=True),
            tokenizer=load_tokenizer(spec),
            batch_size=settings.eval_batch_size,
            threshold=settings.guard_threshold,
            min_mass=settings.guard_min_mass,
            on_progress=lambda done, total: self._monitor.progress("asking the guard", done, total),
        )

    def _classifier(self, source: _Source) -> Judge:
        from sotune.evaluation.judges import ClassifierJudge

        settings = self._settings
        return ClassifierJudge(
            _model_spec(settings, source.argument),
            harmful_labels=settings.harmful_labels,
            threshold=settings.classifier_threshold,
            input=settings.classifier_input,
            batch_size=settings.eval_batch_size,
        )
