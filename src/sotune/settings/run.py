"""All settings of a run, their presets, and how they are layered: defaults, preset, YAML file, flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from sotune.errors import ConfigError
from sotune.settings.engine import EngineSettings
from sotune.settings.evaluate import (
    EvaluationSettings,
    JudgeCheckSettings,
    JudgeSettings,
    ModelEvaluation,
    endpoint_faults,
)
from sotune.settings.extract import DataSettings, RepresentationSettings
from sotune.settings.gate import GateSettings
from sotune.settings.schema import SeedSettings, StageSettings, absolute_source
from sotune.settings.select import SelectionSettings
from sotune.settings.train import TrainingSettings
from sotune.settings.weigh import SentinelSettings, WeightSettings
from sotune.settings.yaml_text import parse_yaml, read_text


class RunSettings(SeedSettings, EngineSettings):
    """Run: where it is written and what makes it repeatable."""

    out: str = Field("sotune-run", description="Run folder; an unfinished run in it is resumed.")
    preset: Literal["default", "paper"] = Field("default", description="Named settings; paper: as published.")
    threads: int | None = Field(None, ge=1, description="CPU threads; results are byte-identical for the same number.")
    show_text: bool = Field(False, description="Show row texts in the report, including harmful ones.")


DEFAULT_HOLD = "kl_constrained"
"""What holds aligned behavior in a run with a method of ours that only selects."""


class MethodSettings(StageSettings):
    """Method: what keeps the fine-tuning safe."""

    method: str = Field(
        "adaptive", description="Method by name (docs/methods.md), or several of different seams, like adaptive + sbr."
    )
    method_settings: dict[str, Any] = Field({}, description="The method's own constants, NAME=VALUE.")
    hold: str = Field(
        "auto",
        description="What keeps aligned behavior in place while the kept rows are learned: kl_constrained, or another "
        "method that trains, by name; none; auto: kl_constrained with a method of ours that only selects, else none.",
    )
    hold_drift: float = Field(
        0.02, gt=0, description="How far kl_constrained lets the model drift from what it was, in nats a token."
    )


class RunConfig(
    DataSettings,
    MethodSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    TrainingSettings,
    EvaluationSettings,
    GateSettings,
    RunSettings,
):
    """All settings of a run, flat."""


ALL_SETTINGS = (
    DataSettings,
    MethodSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    TrainingSettings,
    JudgeSettings,
    EvaluationSettings,
    GateSettings,
    RunSettings,
)
"""The groups, in the order of the work."""


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # §5.1 and Algorithm 1: "gradient step". The paper gives neither the optimizer, its step size nor their number.
    "paper": {
        "method": "sot",
        "hold": "none",
        "cost": "cosine",
        "epsilon": 0.1,
        "push_strength": 0.5,
        "safe_strength": 0.0,
        "solver": "sharp",
        "logit_optimizer": "sgd",
        "logit_learning_rate": 0.1,
        "max_outer_steps": 20,
        "keep_fraction": 0.8,
        "loss_weight_rule": "exp",
        "template": "paper",
        "learn_turns": "last",
        "layer": -1,
        "pooling": "last",
        "max_windows": 1,
        "sentinels": "off",
    },
}


_PATHS = (
    "data",
    "safe_anchor",
    "harmful_reference",
    "safe_reference",
    "references",
    "safety_pairs",
    "model",
    "cache_dir",
    "answers_dir",
    "judge_cache_dir",
)


_FIXED_K = ("k", "keep_fraction")
_LIMITS = ("max_harmful_pass", "max_harmful_share")
_REFERENCES = ("harmful_reference", "safe_reference")
_EXCLUSIVE = (_FIXED_K, ("tau", "effective_sample_size"), _LIMITS)


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with changes over them; of settings that exclude each other, the change stays."""

    def changed(*names: str) -> bool:
        return any(changes.get(name) is not None for name in names)

    dropped = {old for pair in _EXCLUSIVE for new, old in (pair, pair[::-1]) if changed(new)}
    if changes.get("keep") == "fixed" or changed(*_FIXED_K):
        dropped |= {"keep", *_LIMITS}
    if changes.get("keep") == "auto" or changed("drop_at", *_LIMITS):
        dropped |= {"keep", *_FIXED_K}
    if changed("drop_at"):
        dropped |= {*_LIMITS}
    if changed("references"):
        dropped |= {*_REFERENCES}
    kept = dict(settings)
    if changed(*_REFERENCES) and (both := kept.pop("references", None)) is not None:
        kept = {**dict.fromkeys(_REFERENCES, both), **kept}
    return {**{name: value for name, value in kept.items() if name not in dropped}, **changes}


def make_config(settings: Mapping[str, Any], *, origin: str = "settings") -> RunConfig:
    """Builds a configuration from given settings over their preset's and the defaults.

    Raises:
        ConfigError: Any setting is unknown, missing, of the wrong type or out of range, or two contradict; all faults
            are named at once.
    """
    preset = settings.get("preset", "default")
    layered = override(PRESETS.get(preset, {}) if isinstance(preset, str) else {}, settings)
    if (both := layered.get("references")) is not None:
        layered = {"harmful_reference": both, "safe_reference": both, **layered}
    for name in _PATHS:
        # A run folder must be usable from any working folder.
        if isinstance(layered.get(name), str) and os.path.exists(layered[name]):
            layered[name] = os.path.abspath(layered[name])
    if isinstance(layered.get("eval_prompts"), str):
        layered["eval_prompts"] = ",".join(absolute_source(name, "=") for name in layered["eval_prompts"].split(","))
    if "keep" not in layered and any(layered.get(name) is not None for name in _FIXED_K):
        layered["keep"] = "fixed"
    config = RunConfig.of(layered, origin=origin)
    contradictions = _contradictions(config, settings)
    if contradictions:
        raise ConfigError(f"{origin}: " + "; ".join(contradictions))
    return config


_Settings = TypeVar("_Settings", ModelEvaluation, JudgeCheckSettings)


def make_settings(kind: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Builds the settings of a command that has no run folder, over the defaults.

    Raises:
        ConfigError: A setting is unknown, missing, of the wrong type or out of range, or would spill a secret.
    """
    settings = kind.of(given)
    faults = endpoint_faults(settings)
    if faults:
        raise ConfigError("settings: " + "; ".join(faults))
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """Reads the settings of a YAML file, unchecked.

    Raises:
        ConfigError: The file is missing, is not YAML, or is not a mapping.
    """
    content = parse_yaml(read_text(path, "configuration"), f"configuration {path}")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"configuration {path} must be a mapping of settings to values, like 'epsilon: 0.1'")
    return content


def _contradictions(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    found = []
    if config.model is None and config.encoder is None:
        found.append("name a causal LM with model, or an encoder with encoder (sentence-transformers:PATH)")
    if config.answer_alone and config.encoder is None:
        found.append("answer_alone needs a sentence encoder; name one with encoder, or leave out answer_alone")
    if config.answer_alone and config.encoder_parts == "together":
        found.append("answer_alone needs prompt and answer read apart; leave out encoder_parts: together")
    if config.answer_alone and config.max_windows == 1:
        found.append("answer_alone is another look at a row, and max_windows 1 allows none; raise it")
    if config.references is not None and {config.harmful_reference, config.safe_reference} != {config.references}:
        found.append("references names both references at once; leave out harmful_reference and safe_reference")
    if given.get("k") is not None and given.get("keep_fraction") is not None:
        found.append(f"k={config.k} and keep_fraction={config.keep_fraction} both say how much to keep; give one")
    if config.keep == "auto" and (given.get("k") is not None or given.get("keep_fraction") is not None):
        found.append("keep auto finds how much to keep; leave out k and keep_fraction")
    limits = [name for name in _LIMITS if given.get(name) is not None]
    if limits and config.sentinels == "off":
        found.append(f"{limits[0]} needs sentinels; leave out sentinels: off")
    if limits and config.keep == "fixed":
        found.append(f"{limits[0]} is a limit for keep auto; set keep: auto")
    if len(limits) > 1:
        found.append("max_harmful_pass and max_harmful_share are two limits on one cut; give one")
    if given.get("tau") is not None and given.get("effective_sample_size") is not None:
        found.append("tau and effective_sample_size both set the same strength; give one")
    return found + endpoint_faults(config)
