"""Sixth stage: what the base model and the tuned one answer, what the judges hold of it, and the figures."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotune.artifacts import RunFolder, library_versions, read_json, sha256_file, write_json
from sotune.config import EvaluationSettings, RunConfig
from sotune.errors import ConfigError, DataError
from sotune.pipeline.fine_tuning import ADAPTER, base_model
from sotune.pipeline.stage import Figures, Monitor, Stage

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, EvaluationResult, Judge, JudgeRole, Response
    from sotune.models import ModelSpec
    from sotune.rendering import Template

_METRICS, _ASSESSMENT = "metrics.json", "assessment.json"
_PARTS = "evaluation-parts"
_SHARD_SIZE = 256


@dataclass(frozen=True)
class Measured:
    """One model's answers and what follows from them."""

    responses: list[Response]
    result: EvaluationResult


def make_judges(name: Literal["matching", "miniature"], *, task_match: Any) -> Mapping[JudgeRole, Judge]:
    """Returns the judges of each role."""
    if name == "miniature":
        from sotune.miniature import judges

        return judges()
    from sotune.evaluation import default_judges

    return default_judges(task=task_match, skill=task_match)


def measure_model(
    prompts: Sequence[EvalPrompt],
    judges: Mapping[JudgeRole, Judge],
    *,
    spec: ModelSpec,
    adapter: Path | None,
    template: Template,
    max_new_tokens: int,
    batch_size: int,
    parts: Path,
    seed: int,
    on_progress: Any = None,
) -> Measured:
    """Asks a model, with or without an adapter, and judges its answers; resumes what an earlier call left in ``parts``.

    Raises:
        ConfigError: The model or the adapter cannot be loaded.
    """
    from sotune.evaluation import ResponseShards, evaluate, generate
    from sotune.models import load_causal_lm, load_tokenizer, model_fingerprint, resolve_device

    key = {
        "model": model_fingerprint(spec),
        "adapter": sha256_file(adapter / "adapter_model.safetensors") if adapter else None,
        "template": template,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "dtype": spec.dtype,
        "device": str(resolve_device(spec.device)),
        "libraries": library_versions("torch", "transformers", "peft"),
    }
    shards = ResponseShards(parts, key, _SHARD_SIZE)
    tokenizer = load_tokenizer(spec)
    loaded: list[Any] = []

    def answer(part: Sequence[EvalPrompt]) -> list[Response]:
        if not loaded:  # a finished evaluation never loads the model
            loaded.append(_with_adapter(load_causal_lm(spec, frozen=True), adapter))
        before = shards.n_done(prompts)
        return generate(
            part,
            model=loaded[0],
            tokenizer=tokenizer,
            template=template,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=(lambda done, _: on_progress(before + done, len(prompts))) if on_progress else None,
        )

    responses = shards.complete(prompts, answer)
    loaded.clear()
    gc.collect()
    return Measured(responses, evaluate(prompts, responses, judges, seed=seed))


def _with_adapter(model: Any, adapter: Path | None) -> Any:
    if adapter is None:
        return model
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        return PeftModel.from_pretrained(model, str(adapter), use_safetensors=True).eval()


def _key(config: RunConfig) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in EvaluationSettings.model_fields}
    return {
        "settings": {**settings, "template": config.template, "dtype": config.dtype, "seed": config.seed},
        "prompts": sha256_file(prompts_file(config)),
        "libraries": library_versions("torch", "transformers", "peft"),
    }


def prompts_file(config: RunConfig) -> Path:
    """Returns where the evaluation prompts lie.

    Raises:
        ConfigError: None are named.
        DataError: The file does not exist.
    """
    if config.eval_prompts is None:
        raise ConfigError("evaluation needs prompts; name a JSONL file with eval_prompts")
    path = Path(config.eval_prompts)
    if not path.is_file():
        raise DataError(f"the evaluation prompts {path} do not exist; check the path")
    return path


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.evaluation import assess, metrics_to_json, save_responses, save_verdicts
    from sotune.evaluation.prompts import load_prompts

    prompts = load_prompts(prompts_file(config))
    judges = make_judges(config.judges, task_match=config.task_match)
    outputs, measured = [], {}
    for name, adapter in (("base", None), ("tuned", run.file(ADAPTER))):
        measured[name] = measure_model(
            prompts,
            judges,
            spec=base_model(config),
            adapter=adapter,
            template=config.template,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.eval_batch_size,
            parts=run.file(_PARTS) / name,
            seed=config.seed,
            on_progress=lambda done, total, label=name: monitor.progress(f"asking the {label} model", done, total),
        )
        prefix = "" if name == "tuned" else "base_"
        save_responses(run.file(f"{prefix}responses.parquet"), measured[name].responses)
        save_verdicts(run.file(f"{prefix}verdicts.parquet"), measured[name].result.verdicts)
        outputs += [f"{prefix}responses.parquet", f"{prefix}verdicts.parquet"]
    metrics = {name: entry.result.metrics for name, entry in measured.items()}
    write_json(run.file(_METRICS), {name: metrics_to_json(entry) for name, entry in metrics.items()})
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
    return [*outputs, _METRICS, _ASSESSMENT]


def _summarize(run: RunFolder) -> Figures:
    metrics, assessment = read_json(run.file(_METRICS)), read_json(run.file(_ASSESSMENT))
    figures = {
        name.replace("_", " "): f"{metrics['base'][name]['value']:.3f} → {entry['value']:.3f} "
        f"[{entry['low']:.3f}, {entry['high']:.3f}], n = {entry['n']}"
        for name, entry in metrics["tuned"].items()
        if name in metrics["base"]
    }
    return {**figures, "verdict": assessment["label"]}


EVALUATION = Stage("evaluation", "evaluate", "training", _key, _work, _summarize)
