"""Sixth stage: what the base model and the tuned one answer, what the judges hold of it, and the figures."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, write_json
from sotune.errors import ConfigError
from sotune.monitoring import Monitor
from sotune.pipeline.fine_tuning import ADAPTER
from sotune.pipeline.judging import (
    CACHE,
    JudgingPlan,
    describe_judging,
    judge_key,
    make_judges,
    plan_questions,
    summarize_judging,
)
from sotune.pipeline.measuring import Asking, Candidate, ask_models, describe_diagnostics, measure_models
from sotune.pipeline.method_tools import base_model
from sotune.pipeline.stage import Figures, Stage
from sotune.settings import EvaluationSettings, JudgeSettings, ModelEvaluation, RunConfig

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt
    from sotune.evaluation.packs import PromptSource

_METRICS, _DIAGNOSTICS, _ASSESSMENT, _JUDGING = "metrics.json", "diagnostics.json", "assessment.json", "judging.json"
_PARTS = "evaluation-parts"


def _key(config: RunConfig) -> dict[str, Any]:
    own = {name: getattr(config, name) for name in EvaluationSettings.model_fields.keys() - JudgeSettings.model_fields}
    return {
        "settings": {
            **own,
            **judge_key(config),
            "template": config.template,
            "seed": config.seed,
        },
        "prompts": [source.digest for source in prompt_sources(config)],
        "libraries": library_versions("torch", "transformers", "peft"),
    }


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
    found = measure_models(
        prompts,
        functools.partial(make_judges, config, run.file(CACHE), monitor),
        _candidates(config, run),
        asking=asking_of(config),
        parts=run.file(_PARTS),
        on_progress=monitor.progress,
    )
    outputs = []
    for name, entry in found.models.items():
        prefix = "" if name == "tuned" else "base_"
        save_responses(run.file(f"{prefix}responses.parquet"), entry.responses)
        save_verdicts(run.file(f"{prefix}verdicts.parquet"), entry.result.verdicts)
        outputs += [f"{prefix}responses.parquet", f"{prefix}verdicts.parquet"]
    metrics = {name: entry.result.metrics for name, entry in found.models.items()}
    write_json(run.file(_METRICS), {name: metrics_to_json(entry) for name, entry in metrics.items()})
    write_json(run.file(_DIAGNOSTICS), describe_diagnostics(prompts, found))
    assessment = assess(metrics["tuned"], metrics["base"])
    write_json(
        run.file(_ASSESSMENT),
        {
            "label": assessment.label,
            "reason": assessment.reason,
            "judges": dict(found.models["tuned"].result.judges),
        },
    )
    write_json(run.file(_JUDGING), describe_judging(prompts, found, settings=config, monitor=monitor))
    shutil.rmtree(run.file(_PARTS))  # all that they held is in the responses now
    return [*outputs, _METRICS, _DIAGNOSTICS, _ASSESSMENT, _JUDGING]


def _candidates(config: RunConfig, run: RunFolder) -> list[Candidate]:
    base = base_model(config)
    return [Candidate("base", base), Candidate("tuned", base, run.file(ADAPTER))]


def asking_of(settings: RunConfig | ModelEvaluation) -> Asking:
    """Returns how models are asked under the settings of an evaluation."""
    return Asking(settings.template, settings.max_new_tokens, settings.eval_batch_size, settings.seed)


def count_judging(config: RunConfig, monitor: Monitor) -> JudgingPlan:
    """Answers the prompts and counts what judging the answers would ask of the endpoint; asks it nothing.

    The answers stay in the run folder, so that the evaluation itself does not ask the models again.

    Raises:
        ArtifactError: The folder is another process's, or training has not finished.
        ConfigError: No chat judge is named.
    """
    prompts = load_eval_prompts(config, seed=config.seed)
    run = RunFolder.open(Path(config.out))
    run.digests("training")
    with run.lock():
        judges = make_judges(config, run.file(CACHE), monitor, load_models=False)
        answers = ask_models(
            prompts,
            _candidates(config, run),
            asking=asking_of(config),
            parts=run.file(_PARTS),
            on_progress=monitor.progress,
        )
        return plan_questions(judges, prompts, answers, config)


def _summarize(run: RunFolder) -> Figures:
    metrics, assessment, judging = (read_json(run.file(name)) for name in (_METRICS, _ASSESSMENT, _JUDGING))
    figures = {
        name.replace("_", " "): f"{metrics['base'][name]['value']:.3f} → {entry['value']:.3f} "
        f"[{entry['low']:.3f}, {entry['high']:.3f}], n = {entry['n']}, {entry['n_unscored']} unscored"
        for name, entry in metrics["tuned"].items()
        if name in metrics["base"]
    }
    return {**figures, **summarize_judging(judging), "verdict": assessment["label"]}


EVALUATION = Stage("evaluation", "evaluate", "training", _key, _work, _summarize)
