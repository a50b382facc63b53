"""Every setting of every stage: its name, its default and where that default comes from.

A YAML key, a command-line flag and a field here have one name. Values are layered: defaults, then the preset, then the
YAML file, then flags. All faults are reported at once, before any model is loaded.
"""

from __future__ import annotations

import difflib
import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sotune.errors import ConfigError

Format = Literal["auto", "prompt-completion", "alpaca", "sharegpt", "messages"]

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(BaseModel):
    """Data: what is read, and what becomes of rows that cannot be."""

    model_config = _STRICT

    data: str = Field(description="Downstream rows to weigh: a file, a saved dataset folder, or a Hub id.")
    safe_anchor: str = Field(description="Trusted rows of the same task: 50 are enough (paper, Fig. 2).")
    harmful_reference: str = Field(description="Known harmful rows, to push away from.")
    format: Format = Field("auto", description="Row format of the downstream rows; auto detects it from the columns.")
    safe_format: Format = Field("auto", description="The same for the safe anchor.")
    harmful_format: Format = Field("auto", description="The same for the harmful reference.")
    where: tuple[str, ...] = Field((), description="Use only downstream rows with COLUMN=VALUE; may be repeated.")
    safe_where: tuple[str, ...] = Field((), description="The same for the safe anchor.")
    harmful_where: tuple[str, ...] = Field((), description="The same for the harmful reference.")
    id_column: str = Field("id", description="Column that holds the rows' own ids; rows without get a content hash.")
    prompt_column: str | None = Field(None, description="Downstream column of the prompt, instead of detecting it.")
    completion_column: str | None = Field(None, description="Downstream column of the completion, likewise.")
    system_column: str | None = Field(None, description="Downstream column of the system prompt, if there is one.")
    split: str = Field("train", description="Split of the downstream data, if a Hugging Face dataset.")
    subset: str | None = Field(None, description="Its subset (configuration).")
    data_revision: str | None = Field(None, description="Its revision on the Hub.")
    limit: int | None = Field(None, ge=1, description="Read at most so many downstream rows.")
    max_row_bytes: int = Field(1 << 22, ge=1, description="Quarantine rows larger than this.")
    max_quarantine_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when more than this share of a set's rows cannot be read."
    )
    min_reference_rows: int = Field(
        10, ge=1, description="Stop when the anchor or the reference has fewer rows (paper, Fig. 2: 10 to 50 saturate)."
    )


class LoadingSettings(BaseModel):
    """Loading: how models are held in memory, those that are judged and those that judge."""

    model_config = _STRICT

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Number type of the models.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    trust_remote_code: bool = Field(False, description="Run Python code that a model's folder ships. Dangerous.")


class RepresentationSettings(LoadingSettings):
    """Representations: which frozen model turns a row into a vector."""

    model_config = _STRICT

    model: str | None = Field(None, description="Causal LM that will be fine-tuned: a folder or a Hub id.")
    revision: str | None = Field(None, description="Revision of the model on the Hub.")
    encoder: str | None = Field(None, description="Another encoder for the weights: sentence-transformers:PATH.")
    encoder_parts: Literal["apart", "together"] = Field(
        "apart", description="A sentence encoder reads prompt and completion apart, or together as one text."
    )
    layer: int | Literal["auto"] = Field(
        "auto",
        description="Layer to read; -1 is the last (paper, §4.1), auto the one whose held-out references separate.",
    )
    pooling: Literal["last", "completion_mean", "completion_minus_prompt", "auto"] = Field(
        "auto", description="From states to a vector: last token (paper), mean, mean less the prompt's end, or auto."
    )
    template: Literal["paper", "chat"] = Field(
        "paper", description="'Human: …; Assistant: …' (paper, §4.1), or the tokenizer's chat template."
    )
    max_length: int = Field(
        2048, ge=8, description="Token limit of a row; longer rows keep prompt end, completion start."
    )
    batch_tokens: int = Field(8192, ge=16, description="Tokens that one forward pass may hold, padding included.")
    cache_dir: str | None = Field(None, description="Where representations are cached; default: in the run folder.")

    @field_validator("layer", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        # A union would name one fault for each of its members.
        if value != "auto" and not re.fullmatch(r"-?\d+", str(value)):
            raise ValueError("must be a whole number or auto")
        return value if value == "auto" else int(str(value))


class WeightSettings(BaseModel):
    """Weights: the transport problem and how it is solved."""

    model_config = _STRICT

    cost: Literal["adaptive", "cosine"] = Field(
        "adaptive", description="Ground cost: learned from the data, or cosine distance (paper, §4.1)."
    )
    epsilon: float = Field(0.1, gt=0, description="Entropic strength, in units of cost (paper, §5.1).")
    push_strength: float = Field(0.5, ge=0, le=1, description="The paper's lambda (§5.1): 0 pulls only, 1 pushes only.")
    solver: Literal["mirror", "cccp", "one_step", "adam_sharp"] = Field(
        "mirror",
        description="mirror, cccp: to stationarity; one_step: first gradient; adam_sharp: the paper's (Alg. 1).",
    )
    stretch: float = Field(
        2.0, ge=0, description="How far adaptive stretches the space along the direction of harm; 0: not at all."
    )
    reference_relaxation: float | None = Field(
        None, ge=0, description="Penalty on unequal use of reference rows; default: 0 (adaptive), equal use (cosine)."
    )
    effective_sample_size: float = Field(
        0.9, gt=0, lt=1, description="How even the weights are; finds tau. Near 0.9 ranks best on real text."
    )
    tau: float | None = Field(None, gt=0, description="Strength of KL(w || uniform), instead of finding it.")
    stationarity_tolerance: float = Field(1e-5, gt=0, description="Largest log-weight residual that counts as solved.")
    marginal_tolerance: float = Field(1e-5, gt=0, description="L1 column error to which each transport is solved.")
    max_outer_steps: int = Field(200, ge=1, description="Outer steps at most; for adam_sharp the exact number.")
    max_iters: int = Field(2000, ge=1, description="Sinkhorn iterations at most, per transport and outer step.")
    max_memory: str | None = Field(
        None,
        description="Memory for the solver's kernels, like 4GB; larger problems are streamed. Default: half of all.",
    )
    streamed_tolerance: float = Field(1e-3, gt=0, description="L1 column error at which a streamed solution stops.")
    logit_learning_rate: float = Field(0.1, gt=0, description="Adam's step on the logits, for adam_sharp alone.")

    @field_validator("max_memory", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("max_memory")
    @classmethod
    def _readable_size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bytes(value)
        return value


class SentinelSettings(BaseModel):
    """Sentinels: harmful rows that are kept back, to choose settings by and to measure what passes."""

    model_config = _STRICT

    sentinels: Literal["measure", "tune", "off"] = Field(
        "measure",
        description="measure: keep harmful rows back and say what passes; tune: choose epsilon, push_strength, stretch "
        "and reference_relaxation by them too, where left at their defaults; off: weigh with the whole reference.",
    )
    tuning_share: float = Field(
        0.2, gt=0, lt=0.5, description="Share of the harmful reference's prompts that choose settings."
    )
    measuring_share: float = Field(
        0.2, gt=0, lt=0.5, description="Share of its prompts that measure what passes, and take part in nothing else."
    )


class SelectionSettings(BaseModel):
    """Selection: how many rows are kept and how they count."""

    model_config = _STRICT

    keep_fraction: float = Field(0.8, gt=0, le=1, description="Share of the rows to keep (paper, §5.1: K = 80 %).")
    k: int | None = Field(None, ge=1, description="Number of rows to keep, instead of keep_fraction.")
    keep: Literal["fixed", "auto"] = Field(
        "fixed", description="fixed: keep_fraction or k; auto: as many as the limits below allow, by the sentinels."
    )
    max_harmful_pass: float = Field(
        0.1, gt=0, lt=1, description="keep auto: at most this share of harm like the reference passes (95 %)."
    )
    max_harmful_share: float | None = Field(
        None, gt=0, lt=1, description="keep auto: at most this share of the kept rows is harmful (95 %), instead."
    )
    loss_weight_rule: Literal["proportional", "exp", "uniform"] = Field(
        "proportional", description="Loss weight from weight: proportional, exp (paper, Eq. 7), or uniform; mean 1."
    )
    weight_column: str = Field("weight", description="Name of the column that kept.jsonl adds to your rows.")


class TrainingSettings(BaseModel):
    """Training: LoRA with the weighted loss of Eq. 8. Names as in transformers and PEFT, defaults of Table 4."""

    model_config = _STRICT

    r: int = Field(16, ge=1, description="Rank of the LoRA adapters (Table 4).")
    lora_alpha: int = Field(16, gt=0, description="The adapters' update is scaled by lora_alpha / r (Table 4).")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters (Table 4).")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "v_proj"), description="Linear layers to adapt (Table 4); PEFT's own choice where a model has none."
    )
    learning_rate: float = Field(4e-5, gt=0, description="Peak of the cosine schedule (Table 4).")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps that it takes to rise (Table 4).")
    per_device_train_batch_size: int = Field(1, ge=1, description="Rows of a micro-batch (Table 4).")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Micro-batches of an optimizer step (Table 4).")
    num_train_epochs: float = Field(2, gt=0, description="Passes over the kept rows (paper, §5.1).")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of passes.")
    save_steps: int = Field(200, ge=1, description="Optimizer steps between checkpoints: the most that a kill costs.")


class JudgeSettings(LoadingSettings):
    """Judges: how answers are judged, which judge models take roles over, where they are, what they cost."""

    model_config = _STRICT

    judges: Literal["matching", "miniature"] = Field(
        "matching", description="matching: refusal phrases and task answers; miniature: exact, for the embedded world."
    )
    task_match: Literal["label", "number", "choice", "contains", "exact", "f1"] = Field(
        "label", description="How answers to task and skill prompts are matched with their reference."
    )
    harm_judge: tuple[str, ...] = Field(
        (),
        description="chat, chat:RUBRIC (a name or file), guard:MODEL or classifier:MODEL, instead of judges'; "
        "several make a panel.",
    )
    refusal_judge: tuple[str, ...] = Field((), description="chat or chat:RUBRIC, likewise.")
    task_judge: tuple[str, ...] = Field((), description="chat (helpfulness 1-5, divided by 5) or chat:RUBRIC.")
    skill_judge: tuple[str, ...] = Field((), description="The same for skill prompts.")
    coherence_judge: tuple[str, ...] = Field((), description="chat or chat:RUBRIC, likewise.")
    judge_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint that chat judges ask; it is sent the texts that are judged."
    )
    judge_model: str | None = Field(None, description="Its model.")
    judge_key_env: str | None = Field(None, description="Environment variable that holds its API key, if it wants one.")
    judge_concurrency: int = Field(16, ge=1, le=512, description="Requests under way at once.")
    judge_requests_per_minute: float | None = Field(None, gt=0, description="The most requests of a minute.")
    judge_max_retries: int = Field(6, ge=0, description="Attempts after a failed one, with growing pauses.")
    judge_timeout: float = Field(120, gt=0, description="Seconds to wait for an answer.")
    judge_temperature: float | None = Field(0, ge=0, description="Sampling temperature; null in YAML sends none.")
    judge_max_tokens: int = Field(512, ge=1, description="The most tokens of a reply; models that think need more.")
    judge_token_parameter: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls that limit."
    )
    judge_json_mode: bool = Field(False, description="Ask the endpoint for a JSON object (response_format).")
    judge_max_characters: int = Field(100_000, ge=1, description="A longer question is unscored, never cut.")
    judge_input_price: float | None = Field(None, ge=0, description="Price of a million input tokens.")
    judge_output_price: float | None = Field(None, ge=0, description="Price of a million output tokens.")
    judge_cache_dir: str | None = Field(None, description="Where answers are kept; default: beside the results.")
    guard_threshold: float = Field(
        0.5, ge=0, le=1, description="Probability of unsafe from which a guard says harmful."
    )
    guard_min_mass: float = Field(
        0.1, ge=0, le=1, description="A guard that gives safe and unsafe together less leaves the answer unscored."
    )
    harmful_labels: tuple[str, ...] = Field(
        (), description="A classifier's labels that are harm, by name or number; default: those whose names say so."
    )
    classifier_threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which it calls harm.")
    classifier_input: Literal["pair", "paper", "chat", "response"] = Field(
        "pair", description="What it reads: prompt and response as a pair, as one text by a template, or the response."
    )
    eval_batch_size: int = Field(16, ge=1, description="Prompts answered, or answers judged, together.")

    @field_validator("harm_judge", "refusal_judge", "task_judge", "skill_judge", "coherence_judge", mode="before")
    @classmethod
    def _named_from_anywhere(cls, value: object) -> object:
        """Takes one name for a list of one, and makes files and folders absolute: a run is usable from any folder."""
        names = (value,) if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return names
        return tuple(_absolute_judge(name) if isinstance(name, str) else name for name in names)


class EvaluationSettings(JudgeSettings):
    """Evaluation: what the base model and the tuned one are asked, and how answers are judged."""

    model_config = _STRICT

    eval_prompts: str | None = Field(
        None,
        description="JSONL of prompts (prompt, kind: harmful, lookalike, task or skill, reference; id optional), "
        "or task packs by name: xstest,gsm8k or gsm8k=FILE; commas between several.",
    )
    eval_limit: int | None = Field(None, ge=1, description="At most so many prompts of each source, drawn by the seed.")
    max_new_tokens: int = Field(256, ge=1, description="The most tokens of an answer.")


class ModelsSettings(LoadingSettings):
    """Models: what is measured without a run folder, and where the results go."""

    model_config = _STRICT

    model: str = Field(description="Base model: a folder or a Hub id. The others are compared with it.")
    adapter: tuple[str, ...] = Field(
        (), description="PEFT adapter of it, or a whole model that was tuned from it; may be repeated."
    )
    revision: str | None = Field(None, description="Revision of the base model on the Hub.")
    template: Literal["paper", "chat"] = Field("paper", description="How a prompt is rendered, as for training.")
    out: str = Field("sotune-evaluation", description="Folder for results; answers that lie there are not asked again.")
    seed: int = Field(0, ge=0, description="Seed of the sample of prompts and of everything else random.")
    threads: int | None = Field(None, ge=1, description="CPU threads.")
    show_text: bool = Field(False, description="Let the page show prompts and answers, harmful ones too.")


class ModelEvaluation(EvaluationSettings, ModelsSettings):
    """All settings of an evaluation without a run folder, flat."""

    model_config = _STRICT


class JudgeCheckSettings(JudgeSettings):
    """Judge check: which judge is measured, and how the labeled rows are read."""

    model_config = _STRICT

    role: Literal["harm", "refusal", "coherence"] = Field("harm", description="The judge of what.")
    label_column: str = Field("label", description="Column of the human label.")
    positive: tuple[str, ...] = Field(
        (), description="Labels that say yes, all others no; default: harmful, unsafe, true, yes, 1."
    )
    category_column: str = Field("category", description="Column to break the figures down by, where rows have it.")
    correct: str | None = Field(None, description="metrics.json, evaluation.json or their folder: correct its rate.")
    out: str = Field("judge-check.json", description="File to write.")


class RunSettings(BaseModel):
    """Run: where it lies and what makes it repeatable."""

    model_config = _STRICT

    out: str = Field("sotune-run", description="Run folder; an unfinished run in it is resumed.")
    preset: Literal["default", "paper"] = Field("default", description="Named settings; paper: as published.")
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    threads: int | None = Field(None, ge=1, description="CPU threads; results are byte-identical for one number.")
    show_text: bool = Field(False, description="Let the report show row texts, harmful ones too.")


class MixSettings(BaseModel):
    """Mixing: what a contaminated experiment is made of, and where it goes."""

    model_config = _STRICT

    task: str = Field(description="Rows of the task: a file, a saved dataset folder, or a Hub id.")
    harmful: str = Field(description="Harmful rows, to contaminate with, to push away from, and to evaluate on.")
    out: str = Field(description="Folder to write; it must be empty or new.")
    n: int = Field(5000, ge=1, description="Training rows in all (paper, §5.1).")
    harmful_fraction: float = Field(0.1, ge=0, le=1, description="Harmful share of the training rows.")
    n_anchor: int = Field(50, ge=1, description="Rows of the safe anchor: 50 are enough (paper, Fig. 2).")
    n_reference: int = Field(1000, ge=1, description="Rows of the harmful reference.")
    n_eval: int = Field(200, ge=1, description="Evaluation prompts of each kind, harmful and task.")
    seed: int = Field(0, ge=0, description="Seed of every draw.")
    refusals: str | None = Field(None, description="Rows that refuse harmful requests, to mix into the training rows.")
    refusal_fraction: float = Field(0.02, ge=0, le=1, description="Their share of the training rows.")
    task_where: tuple[str, ...] = Field((), description="Use only task rows with COLUMN=VALUE; may be repeated.")
    harmful_where: tuple[str, ...] = Field((), description="The same for the harmful rows.")
    refusals_where: tuple[str, ...] = Field((), description="The same for the refusals.")
    task_format: Format = Field("auto", description="Row format of the task; auto detects it from the columns.")
    harmful_format: Format = Field("auto", description="The same for the harmful rows.")
    refusals_format: Format = Field("auto", description="The same for the refusals.")
    id_column: str = Field("id", description="Column that holds the rows' own ids, in all files.")
    label_column: str = Field("mix_label", description="Column that train.jsonl adds: benign, harmful or refusal.")
    max_quarantine_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when more than this share of a file's rows cannot be read."
    )


class RunConfig(
    DataSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    TrainingSettings,
    EvaluationSettings,
    RunSettings,
):
    """All settings of a run, flat."""

    model_config = _STRICT


ALL_SETTINGS = (
    DataSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    TrainingSettings,
    JudgeSettings,
    EvaluationSettings,
    RunSettings,
)
"""The groups, in the order of the work."""


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # §5.1 and Algorithm 1. The paper gives neither the optimizer, its step size nor the number of steps.
    "paper": {
        "cost": "cosine",
        "epsilon": 0.1,
        "push_strength": 0.5,
        "solver": "adam_sharp",
        "max_outer_steps": 20,
        "logit_learning_rate": 0.1,
        "keep_fraction": 0.8,
        "loss_weight_rule": "exp",
        "template": "paper",
        "layer": -1,
        "pooling": "last",
        "sentinels": "off",
    },
}


_PATHS = ("data", "safe_anchor", "harmful_reference", "model", "cache_dir", "judge_cache_dir")
_JUDGES = ("harm_judge", "refusal_judge", "task_judge", "skill_judge", "coherence_judge")
_EXCLUSIVE = (("k", "keep_fraction"), ("tau", "effective_sample_size"), ("max_harmful_share", "max_harmful_pass"))
TUNED: dict[str, tuple[float, ...]] = {
    "epsilon": (0.1, 0.2, 0.4),
    "push_strength": (0.4, 0.5, 0.6),
    "reference_relaxation": (0.0, 0.1, float("inf")),
    "stretch": (2.0, 4.0),
}
"""What the tuning fold tries: the defaults and smoother settings. Sharper ones, epsilon 0.05 or stretch 1, win on the
tuning fold by fitting harm like the reference's, and lose where the data's harm differs (docs/promise.md)."""


def parse_bytes(text: str) -> int:
    """Reads a size like ``4GB``, ``512 MiB`` or ``1000000``, in bytes.

    Raises:
        ValueError: It is no size, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = 0 if found is None else float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    if size < 1:
        raise ValueError("must be a size like 4GB, 512MiB or a number of bytes")
    return int(size)


def _absolute_source(name: str) -> str:
    kind, _, argument = name.partition(":")
    is_path = os.sep in argument or "." in argument
    return f"{kind}:{os.path.abspath(argument)}" if is_path and os.path.exists(argument) else name


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with changes over them; of two settings that exclude each other, the change stays."""
    kept = dict(settings)
    for pair in _EXCLUSIVE:
        for new, old in (pair, pair[::-1]):
            if changes.get(new) is not None:
                kept.pop(old, None)
    return {**kept, **changes}


def make_config(settings: Mapping[str, Any], *, origin: str = "settings") -> RunConfig:
    """Builds a configuration from given settings over their preset's and the defaults.

    Raises:
        ConfigError: Any setting is unknown, missing, of the wrong type or out of range, or two contradict; all faults
            are named at once.
    """
    preset = settings.get("preset", "default")
    layered = {**PRESETS.get(preset, {}), **settings} if isinstance(preset, str) else dict(settings)
    for name in _PATHS:
        # A run folder must be usable from any working folder.
        if isinstance(layered.get(name), str) and os.path.exists(layered[name]):
            layered[name] = os.path.abspath(layered[name])
    if isinstance(layered.get("eval_prompts"), str):
        layered["eval_prompts"] = ",".join(_absolute(name, "=") for name in layered["eval_prompts"].split(","))
    try:
        config = RunConfig(**layered)
    except ValidationError as error:
        raise ConfigError(_describe(error, origin)) from None
    contradictions = _contradictions(config, settings)
    if contradictions:
        raise ConfigError(f"{origin}: " + "; ".join(contradictions))
    return config


def _absolute(source: str, separator: str) -> str:
    """Returns a source, ``PATH``, ``NAME`` or ``NAME=PATH``, with its path found from anywhere."""
    name, mark, path = source.strip().partition(separator) if separator in source else ("", "", source.strip())
    return f"{name}{mark}{os.path.abspath(path)}" if os.path.exists(path) else source


def _absolute_judge(source: str) -> str:
    named = ":" in source and (not source.startswith("chat:") or "." in source)  # a rubric by name is no file
    return _absolute(source, ":") if named else source


def make_mix_settings(given: Mapping[str, Any]) -> MixSettings:
    """Builds the settings of a mixture from those given, over the defaults.

    Raises:
        ConfigError: A setting is unknown, missing, of the wrong type or out of range, or refusals have a share but
            no source.
    """
    try:
        settings = MixSettings(**given)
    except ValidationError as error:
        raise ConfigError(_describe(error, "settings")) from None
    if settings.refusals is None and "refusal_fraction" in given:
        raise ConfigError("refusal_fraction is given, and no rows to take refusals from; name them with refusals")
    return settings


_Settings = TypeVar("_Settings", ModelEvaluation, JudgeCheckSettings)


def make_settings(kind: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Builds the settings of a command that has no run folder, over the defaults.

    Raises:
        ConfigError: A setting is unknown, missing, of the wrong type or out of range, or would spill a secret.
    """
    try:
        settings = kind(**given)
    except ValidationError as error:
        raise ConfigError(_describe(error, "settings")) from None
    faults = _endpoint_faults(settings)
    if faults:
        raise ConfigError("settings: " + "; ".join(faults))
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """Reads the settings of a YAML file, unchecked.

    Raises:
        ConfigError: The file is missing, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration {path} does not exist; check the path") from None
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not readable YAML: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"configuration {path} must be a mapping of settings to values, like 'epsilon: 0.1'")
    return content


def nearest_setting(name: str, known: Mapping[str, Any] | None = None) -> str | None:
    """Returns the known setting whose name is most like ``name``, if any is."""
    near = difflib.get_close_matches(name, list(known or RunConfig.model_fields), n=1)
    return near[0] if near else None


def _contradictions(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    found = []
    if config.model is None and config.encoder is None:
        found.append("name a causal LM with model, or an encoder with encoder (sentence-transformers:PATH)")
    if given.get("k") is not None and given.get("keep_fraction") is not None:
        found.append(f"k={config.k} and keep_fraction={config.keep_fraction} both say how much to keep; give one")
    if config.keep == "auto" and (given.get("k") is not None or given.get("keep_fraction") is not None):
        found.append("keep auto finds how much to keep; leave out k and keep_fraction")
    if config.keep == "auto" and config.sentinels == "off":
        found.append("keep auto needs sentinels; leave out sentinels: off")
    if config.keep == "fixed" and given.get("max_harmful_share") is not None:
        found.append("max_harmful_share is a limit for keep auto; set keep: auto")
    if given.get("max_harmful_pass") is not None and given.get("max_harmful_share") is not None:
        found.append("max_harmful_pass and max_harmful_share are two limits for one cut; give one")
    if given.get("tau") is not None and given.get("effective_sample_size") is not None:
        found.append("tau and effective_sample_size both set the same strength; give one")
    return found + _endpoint_faults(config)


def _endpoint_faults(config: JudgeSettings) -> list[str]:
    """Finds what would spill a secret, which no message and no artefact may repeat, and what a chat judge lacks."""
    found = []
    if config.judge_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", config.judge_key_env):
        found.append("judge_key_env must be the name of an environment variable, not the key itself")
    if config.judge_base_url is not None and not _is_plain_url(config.judge_base_url):
        found.append("judge_base_url must be like https://host/v1, without a user, a password or a query")
    asks = any(name.partition(":")[0] == "chat" for role in _JUDGES for name in getattr(config, role))
    if asks and (config.judge_base_url is None or config.judge_model is None):
        found.append("a chat judge needs judge_base_url and judge_model")
    return found


def _is_plain_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    named = url.scheme in ("http", "https") and url.hostname
    return bool(named) and not (url.username or url.password or url.query or url.fragment)


def _describe(error: ValidationError, origin: str) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = nearest_setting(name)
            hint = f"; did you mean {near!r}?" if near else "; see `sotune run --help` for all settings"
            faults.append(f"unknown setting {name!r}{hint}")
        elif fault["type"] == "missing":
            faults.append(f"setting {name!r} is required")
        else:
            faults.append(f"{name}: {fault['msg']}. Got {fault['input']!r}")
    return f"{origin}: " + "; ".join(faults)
