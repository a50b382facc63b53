"""Sixth stage: what the base model and the tuned one answer, what the judges hold of it, and the figures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, write_json
from sotune.config import EvaluationSettings, JudgeSettings, RunConfig
from sotune.errors import ConfigError
from sotune.pipeline.fine_tuning import ADAPTER, base_model
from sotune.pipeline.measuring import Asking, Candidate, describe_diagnostics, measure_models
from sotune.pipeline.stage import Figures, Monitor, Stage

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, Judge, JudgeRole
    from sotune.evaluation.packs import PromptSource

_METRICS, _DIAGNOSTICS, _ASSESSMENT = "metrics.json", "diagnostics.json", "assessment.json"
_PARTS = "evaluation-parts"


def make_judges(settings: JudgeSettings) -> dict[JudgeRole, Judge]:
    """Returns the judge of each role."""
    if settings.judges == "miniature":
        from sotune.miniature import judges

        chosen = judges()
    else:
        from sotune.evaluation import default_judges

        chosen = default_judges(task=settings.task_match, skill=settings.task_match)
    if settings.harm_classifier is not None:
        from sotune.evaluation.judges import ClassifierJudge
        from sotune.models import ModelSpec

        chosen["harm"] = ClassifierJudge(
            ModelSpec(settings.harm_classifier),
            harmful_labels=settings.harmful_labels,
            threshold=settings.classifier_threshold,
            input=settings.classifier_input,
            batch_size=settings.eval_batch_size,
        )
    return chosen


def _key(config: RunConfig) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in EvaluationSettings.model_fields}
    return {
        "settings": {**settings, "template": config.template, "dtype": config.dtype, "seed": config.seed},
        "prompts": [source.digest for source in prompt_sources(config)],
        "harm_classifier": _fingerprint(config.harm_classifier),
        "libraries": library_versions("torch", "transformers", "peft"),
    }


def _fingerprint(model: str | None) -> str | None:
    from sotune.models import ModelSpec, model_fingerprint

    return None if model is None else model_fingerprint(ModelSpec(model))


def prompt_sources(config: EvaluationSettings) -> Sequence[PromptSource]:
    """Returns where the evaluation prompts come from.

    Raises:
        ConfigError: None are named, or a name is neither a file nor a pack.
        DataError: A file does not exist.
    """
    from sotune.evaluation.packs import parse_sources

    if config.eval_prompts is None:
        raise ConfigError("evaluation needs prompts; name a JSONL file or a task pack with eval_prompts")
    return parse_sources(config.eval_prompts)


def load_eval_prompts(config: EvaluationSettings, *, seed: int) -> list[EvalPrompt]:
    """Reads the evaluation prompts of all sources, at most ``eval_limit`` of each, drawn by the seed alone.

    Raises:
        ConfigError: A source is neither a file nor a pack, or cannot be scored here.
        DataError: A source cannot be read.
    """
    from sotune.evaluation.packs import load_sources

    return load_sources(prompt_sources(config), limit=config.eval_limit, seed=seed)


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.evaluation import assess, metrics_to_json, save_responses, save_verdicts

    prompts = load_eval_prompts(config, seed=config.seed)
    measured, yardstick = measure_models(
        prompts,
        make_judges(config),
        [Candidate("base", base_model(config)), Candidate("tuned", base_model(config), run.file(ADAPTER))],
        asking=Asking(config.template, config.max_new_tokens, config.eval_batch_size, config.seed),
        parts=run.file(_PARTS),
        on_progress=monitor.progress,
    )
    outputs = []
    for name, prefix in (("base", "base_"), ("tuned", "")):
        save_responses(run.file(f"{prefix}responses.parquet"), measured[name].responses)
        save_verdicts(run.file(f"{prefix}verdicts.parquet"), measured[name].result.verdicts)
        outputs += [f"{prefix}responses.parquet", f"{prefix}verdicts.parquet"]
    metrics = {name: entry.result.metrics for name, entry in measured.items()}
    write_json(run.file(_METRICS), {name: metrics_to_json(entry) for name, entry in metrics.items()})
    write_json(run.file(_DIAGNOSTICS), describe_diagnostics(prompts, measured, yardstick))
    assessment = assess(metrics["tuned"], metrics["base"])
    write_json(
        run.file(_ASSESSMENT),
        {
            "label": assessment.label,
            "reason": assessment.reason,
            "judges": dict(measured["tuned"].result.judges),
        },
    )
    shutil.rmtree(run.file(_PARTS))  # all that they held is in the responses now
    return [*outputs, _METRICS, _DIAGNOSTICS, _ASSESSMENT]


def _summarize(run: RunFolder) -> Figures:
    metrics, assessment = read_json(run.file(_METRICS)), read_json(run.file(_ASSESSMENT))
    figures = {
        name.replace("_", " "): f"{metrics['base'][name]['value']:.3f} → {entry['value']:.3f} "
        f"[{entry['low']:.3f}, {entry['high']:.3f}], n = {entry['n']}, {entry['n_unscored']} unscored"
        for name, entry in metrics["tuned"].items()
        if name in metrics["base"]
    }
    return {**figures, "verdict": assessment["label"]}


EVALUATION = Stage("evaluation", "evaluate", "training", _key, _work, _summarize)
