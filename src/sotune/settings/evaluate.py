"""What models are asked, and how their answers are judged."""

from __future__ import annotations

import re
import urllib.parse
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from sotune.errors import redacted
from sotune.settings.extract import LoadingSettings
from sotune.settings.gate import GateSettings
from sotune.settings.schema import StageSettings, TemplateSettings, absolute_source

Temperature = Annotated[
    float | None, Field(ge=0), BeforeValidator(lambda given: None if given in ("none", "null") else given)
]
_JUDGES = ("harm_judge", "refusal_judge", "task_judge", "skill_judge", "coherence_judge")


class JudgeRoleSettings(StageSettings):
    """Who takes which role."""

    judges: Literal["matching", "miniature"] = Field(
        "matching", description="matching: refusal phrases and task answers; miniature: exact, for the embedded world."
    )
    harm_judge: tuple[str, ...] = Field(
        (),
        description="chat, chat:RUBRIC (a name or file), guard:MODEL, classifier:MODEL, or a judge of an installed "
        "package, instead of judges'; several make a panel.",
    )
    refusal_judge: tuple[str, ...] = Field((), description="chat or chat:RUBRIC.")
    task_judge: tuple[str, ...] = Field((), description="chat (helpfulness 1-5, divided by 5) or chat:RUBRIC.")
    skill_judge: tuple[str, ...] = Field((), description="chat or chat:RUBRIC, for skill prompts.")
    coherence_judge: tuple[str, ...] = Field((), description="chat or chat:RUBRIC.")

    @field_validator(*_JUDGES, mode="before")
    @classmethod
    def _named_from_anywhere(cls, value: object) -> object:
        """Makes files and folders absolute: a run is usable from any folder."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(_absolute_judge(name) if isinstance(name, str) else name for name in value)


class MatchingSettings(StageSettings):
    """How the judges that need no model decide."""

    task_match: Literal["label", "number", "choice", "contains", "exact", "f1"] = Field(
        "label", description="How answers to task and skill prompts are matched with their reference."
    )


class ChatJudgeSettings(StageSettings):
    """What the verdicts of a chat judge depend on."""

    judge_model: str | None = Field(None, description="Model of the chat judges, as the endpoint calls it.")
    judge_temperature: Temperature | None = Field(0, description="Sampling temperature; none sends none.")
    judge_max_tokens: int = Field(512, ge=1, description="Token limit of a reply; models that think need more.")
    judge_token_parameter: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="Name of that limit in the endpoint's API."
    )
    judge_json_mode: bool = Field(False, description="Ask the endpoint for a JSON object (response_format).")
    judge_max_characters: int = Field(100_000, ge=1, description="Longer questions are left unscored, never cut.")


class JudgeEndpointSettings(StageSettings):
    """How a chat judge is reached and what it costs; no verdict depends on these."""

    judge_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint that chat judges ask; it is sent the texts that are judged."
    )
    judge_key_env: str | None = Field(None, description="Environment variable that holds its API key, if it needs one.")
    judge_concurrency: int = Field(16, ge=1, le=512, description="Requests in flight at once.")
    judge_requests_per_minute: float | None = Field(None, gt=0, description="Limit of requests per minute.")
    judge_max_retries: int = Field(6, ge=0, description="Retries of a failed request, with growing pauses.")
    judge_timeout: float = Field(120, gt=0, description="Seconds to wait for an answer.")
    judge_input_price: float | None = Field(None, ge=0, description="Price per million input tokens.")
    judge_output_price: float | None = Field(None, ge=0, description="Price per million output tokens.")
    judge_cache_dir: str | None = Field(
        None, description="Where the judge's answers are cached; default: with the results."
    )


class GuardSettings(StageSettings):
    """What the verdicts of a generative guard depend on."""

    guard_threshold: float = Field(
        0.5, ge=0, le=1, description="A guard calls an answer harmful if its probability of unsafe is at least this."
    )
    guard_min_mass: float = Field(
        0.1, ge=0, le=1, description="If safe and unsafe together have less probability, the answer is unscored."
    )


class ClassifierSettings(StageSettings):
    """What the verdicts of a sequence classifier depend on."""

    harmful_labels: tuple[str, ...] = Field(
        (), description="The classifier's labels that mean harm, by name or number; default: those whose names say so."
    )
    classifier_threshold: float = Field(
        0.5, gt=0, lt=1, description="It calls an answer harmful if the probability is at least this."
    )
    classifier_input: Literal["pair", "paper", "chat", "response"] = Field(
        "pair", description="What it reads: prompt and response as a pair, as one text by a template, or the response."
    )


class JudgeSettings(
    ClassifierSettings,
    GuardSettings,
    JudgeEndpointSettings,
    ChatJudgeSettings,
    MatchingSettings,
    JudgeRoleSettings,
    LoadingSettings,
):
    """Judges: how answers are judged, which judges take roles over, where they are, what they cost."""

    eval_batch_size: int = Field(16, ge=1, description="Prompts answered, or answers judged, per batch.")


class ServerSettings(StageSettings):
    """Server: who answers in place of the models on this machine."""

    server_base_url: str | None = Field(
        None,
        description="OpenAI-compatible server (vLLM, SGLang, llama.cpp) that answers the prompts instead of the models "
        "here; it is sent the prompts.",
    )
    server_models: tuple[str, ...] = Field(
        (),
        description="NAME=SERVED: what the server calls the model that we call NAME, such as base or tuned; may be "
        "repeated. Default: the name in model for base, each other model's own name.",
    )
    server_key_env: str | None = Field(
        None, description="Environment variable that holds its API key, if it needs one."
    )
    server_concurrency: int = Field(32, ge=1, le=512, description="Requests to it in flight at once.")
    server_max_retries: int = Field(6, ge=0, description="Retries of a request to it that failed, with growing pauses.")
    server_timeout: float = Field(600, gt=0, description="Seconds to wait for an answer of it.")

    @property
    def served_names(self) -> dict[str, str]:
        """What the server calls a model, by our name of it."""
        return {name: served for name, _, served in (entry.partition("=") for entry in self.server_models)}


class EvaluationSettings(ServerSettings, JudgeSettings):
    """Evaluation: what the base model and the tuned one are asked, and how answers are judged."""

    eval_prompts: str | None = Field(
        None,
        description="JSONL of prompts (prompt, kind: harmful, lookalike, task or skill, reference; id optional), "
        "or task packs by name: xstest,gsm8k or gsm8k=FILE; commas between several.",
    )
    eval_limit: int | None = Field(
        None, ge=1, description="Use at most this many prompts of each kind and source, drawn by the seed."
    )
    eval_system: str | None = Field(
        None,
        min_length=1,
        description="System prompt that the models are asked under, as they are to be served; prompts with one of "
        "their own keep it. Nothing is trained with it.",
    )
    max_new_tokens: int = Field(256, ge=1, description="Token limit of an answer.")
    answers_dir: str | None = Field(
        None,
        description="Where model answers are cached; runs with one base model can share it. Default: with the results.",
    )
    diagnostics: bool = Field(True, description="Measure surprise and drift; takes another pass over the answers.")


class ModelsSettings(LoadingSettings, TemplateSettings):
    """Models: what is measured without a run folder, and where the results go."""

    model: str = Field(description="Base model: a folder or a Hub id. The others are compared with it.")
    adapter: tuple[str, ...] = Field(
        (), description="PEFT adapter for it, or a whole model tuned from it; may be repeated."
    )
    revision: str | None = Field(None, description="Revision of the base model on the Hub.")
    out: str = Field("sotune-evaluation", description="Folder for the results; answers in it are reused.")
    seed: int = Field(0, ge=0, description="Seed of the sample of prompts and of all other randomness.")
    threads: int | None = Field(None, ge=1, description="CPU threads.")
    show_text: bool = Field(False, description="Show prompts and answers on the page, including harmful ones.")


class ModelEvaluation(EvaluationSettings, GateSettings, ModelsSettings):
    """All settings of an evaluation without a run folder, flat."""


class JudgeCheckSettings(JudgeSettings):
    """Judge check: which judge is measured, and how the labeled rows are read."""

    role: Literal["harm", "refusal", "coherence"] = Field("harm", description="Which role the judge has.")
    label_column: str = Field("label", description="Column of the human label.")
    positive: tuple[str, ...] = Field(
        (), description="Labels that mean yes, all others mean no; default: harmful, unsafe, true, yes, 1."
    )
    category_column: str = Field("category", description="Column to break the figures down by, if rows have it.")
    correct: str | None = Field(
        None, description="metrics.json, evaluation.json or their folder, whose rate to correct."
    )
    out: str = Field("judge-check.json", description="File to write.")


def _absolute_judge(source: str) -> str:
    named = ":" in source and (not source.startswith("chat:") or "." in source)  # a rubric by name is no file
    return absolute_source(source, ":") if named else source


def endpoint_faults(config: JudgeSettings) -> list[str]:
    """Finds what would spill a secret, which no message and no artefact may repeat, and what a chat judge lacks."""
    found = []
    for who in ("judge", "server"):
        key_env, url = (getattr(config, f"{who}_{name}", None) for name in ("key_env", "base_url"))
        if key_env is not None and not _is_variable(key_env):
            found.append(f"{who}_key_env must be the name of an environment variable, not the key itself")
        if url is not None and not _is_plain_url(url):
            found.append(f"{who}_base_url must be like https://host/v1, without a user, a password or a query")
    if isinstance(config, ServerSettings):
        found += _server_faults(config)
    if asks_chat_judge(config) and (config.judge_base_url is None or config.judge_model is None):
        found.append("a chat judge needs judge_base_url and judge_model")
    return found


def asks_chat_judge(config: JudgeSettings) -> bool:
    """Tells whether any role is a chat judge's, which is asked over the network."""
    return any(name.partition(":")[0] == "chat" for role in _JUDGES for name in getattr(config, role))


def is_on_this_machine(url: str | None) -> bool:
    """Tells whether what is sent to an address stays on this machine; to none, it does not.

    >>> is_on_this_machine("http://localhost:8000/v1"), is_on_this_machine("https://host/v1")
    (True, False)
    """
    return urllib.parse.urlsplit(url or "").hostname in ("127.0.0.1", "localhost", "::1")


def _server_faults(config: ServerSettings) -> list[str]:
    found = [
        f"server_models must be like NAME=SERVED. Got {entry!r}"
        for entry in config.server_models
        if not all(part.strip() for part in entry.partition("="))
    ]
    if config.server_base_url is None:
        return [*found, *(["server_models needs server_base_url"] if config.server_models else [])]
    if getattr(config, "template", None) == "paper":
        found.append("a server renders prompts by its model's own chat template; leave out template: paper")
    return found


def _is_variable(name: str) -> bool:
    """Tells whether a text names a variable; an API key can be one by its characters, but not by its shape."""
    looks_like_key = redacted(name) != name or any(
        len(part) >= 16 and any(c.isdigit() for c in part) for part in name.split("_")
    )
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) is not None and not looks_like_key


def _is_plain_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    named = url.scheme in ("http", "https") and url.hostname
    return bool(named) and not (url.username or url.password or url.query or url.fragment)
