"""Sixth stage: what the base model and the tuned one answer, what the judges hold of it, and the figures."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, sha256_file, write_json
from sotune.config import EvaluationSettings, RunConfig
from sotune.errors import ConfigError, DataError
from sotune.pipeline.fine_tuning import ADAPTER, base_model
from sotune.pipeline.judging import (
    count_usage,
    describe_unscored,
    estimate_cost,
    judge_key,
    make_judges,
    usage_to_json,
)
from sotune.pipeline.stage import Figures, Monitor, Stage

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, EvaluationResult, Judge, JudgeRole, Response
    from sotune.models import ModelSpec
    from sotune.rendering import Template

_METRICS, _ASSESSMENT = "metrics.json", "assessment.json"
_JUDGING = "judging.json"
_PARTS = "evaluation-parts"
_SHARD_SIZE = 256
_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Measured:
    """One model's answers and what follows from them."""

    responses: list[Response]
    result: EvaluationResult


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
    from sotune.evaluation import evaluate

    responses = answer_prompts(
        prompts,
        spec=spec,
        adapter=adapter,
        template=template,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        parts=parts,
        on_progress=on_progress,
    )
    return Measured(responses, evaluate(prompts, responses, judges, seed=seed))


def answer_prompts(
    prompts: Sequence[EvalPrompt],
    *,
    spec: ModelSpec,
    adapter: Path | None,
    template: Template,
    max_new_tokens: int,
    batch_size: int,
    parts: Path,
    on_progress: Any = None,
) -> list[Response]:
    """Asks a model, with or without an adapter; resumes what an earlier call left in ``parts``.

    Raises:
        ConfigError: The model or the adapter cannot be loaded.
    """
    from sotune.evaluation import ResponseShards, generate
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
    return responses


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
        "settings": {
            **settings,
            **judge_key(config),
            "template": config.template,
            "dtype": config.dtype,
            "seed": config.seed,
        },
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
    from sotune.evaluation import assess, evaluate, metrics_to_json, save_responses, save_verdicts
    from sotune.evaluation.prompts import load_prompts

    prompts = load_prompts(prompts_file(config))
    # All answers before any judge: a guard model need not share the memory with the models that answer.
    responses = _answer_all(prompts, config, run, monitor)
    judges = make_judges(config, run, monitor)
    outputs, results = [], {}
    for name, answers in responses.items():
        result = results[name] = evaluate(prompts, answers, judges, seed=config.seed)
        for role, reasons in describe_unscored(result.verdicts).items():
            most = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_REASONS]
            told = "; ".join(f"{count} times: {reason}" for reason, count in most)
            monitor.warn(
                f"judge of {role}, {name} model: {sum(reasons.values())} answers unscored ({told}); all in {_JUDGING}"
            )
        prefix = "" if name == "tuned" else "base_"
        save_responses(run.file(f"{prefix}responses.parquet"), answers)
        save_verdicts(run.file(f"{prefix}verdicts.parquet"), result.verdicts)
        outputs += [f"{prefix}responses.parquet", f"{prefix}verdicts.parquet"]
    metrics = {name: result.metrics for name, result in results.items()}
    write_json(run.file(_METRICS), {name: metrics_to_json(entry) for name, entry in metrics.items()})
    assessment = assess(metrics["tuned"], metrics["base"])
    write_json(
        run.file(_ASSESSMENT),
        {
            "label": assessment.label,
            "reason": assessment.reason,
            "judges": dict(results["tuned"].judges),
        },
    )
    usage = count_usage(judges, prompts, responses)
    unscored = {name: describe_unscored(result.verdicts) for name, result in results.items()}
    write_json(run.file(_JUDGING), {"usage": usage_to_json(usage, config), "unscored": unscored})
    shutil.rmtree(run.file(_PARTS))  # all that they held is in the responses now
    return [*outputs, _METRICS, _ASSESSMENT, _JUDGING]


def _answer_all(
    prompts: Sequence[EvalPrompt], config: RunConfig, run: RunFolder, monitor: Monitor
) -> dict[str, list[Response]]:
    """Returns what the base model and the tuned one answer."""
    return {
        name: answer_prompts(
            prompts,
            spec=base_model(config),
            adapter=adapter,
            template=config.template,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.eval_batch_size,
            parts=run.file(_PARTS) / name,
            on_progress=lambda done, total, label=name: monitor.progress(f"asking the {label} model", done, total),
        )
        for name, adapter in (("base", None), ("tuned", run.file(ADAPTER)))
    }


def count_judging(config: RunConfig, monitor: Monitor) -> JudgingPlan:
    """Answers the prompts and counts what judging the answers would ask of the endpoint; asks it nothing.

    The answers stay in the run folder, so that the evaluation itself does not ask the models again.

    Raises:
        ArtifactError: The folder is another process's, or training has not finished.
        ConfigError: No chat judge is named.
    """
    from sotune.evaluation.prompts import load_prompts

    prompts = load_prompts(prompts_file(config))
    run = RunFolder.open(Path(config.out))
    run.digests("training")
    with run.lock():
        judges = make_judges(config, run, monitor, load_guards=False)
        responses = _answer_all(prompts, config, run, monitor)
        usage = count_usage(judges, prompts, responses)
    if not usage:
        raise ConfigError("no chat judge is named, so nothing would be asked; name one, like harm_judge: chat")
    return JudgingPlan(
        n_items=sum(entry.n_items for entry in usage.values()),
        n_calls=sum(entry.n_calls for entry in usage.values()),
        n_cached=sum(entry.n_cached for entry in usage.values()),
        input_tokens=sum(entry.pending_input_tokens for entry in usage.values()),
        cost=estimate_cost(usage, config),
    )


def _summarize(run: RunFolder) -> Figures:
    metrics, assessment, judging = (read_json(run.file(name)) for name in (_METRICS, _ASSESSMENT, _JUDGING))
    figures = {
        name.replace("_", " "): f"{metrics['base'][name]['value']:.3f} → {entry['value']:.3f} "
        f"[{entry['low']:.3f}, {entry['high']:.3f}], n = {entry['n']}"
        for name, entry in metrics["tuned"].items()
        if name in metrics["base"]
    }
    unscored = sum(sum(r.values()) for roles in judging["unscored"].values() for r in roles.values())
    usage = judging["usage"].values()
    if usage:
        figures["judge's answers"] = f"{sum(entry['n_answered'] for entry in usage):,}"
        figures["judge's tokens"] = " + ".join(
            f"{sum(entry[name] for entry in usage):,} {label}"
            for name, label in (("input_tokens", "in"), ("output_tokens", "out"))
        )
    if usage and all(entry["cost"] is not None for entry in usage):
        figures["judge's cost"] = f"{sum(entry['cost'] for entry in usage):.4f}"
    return {**figures, "unscored verdicts": f"{unscored:,}", "verdict": assessment["label"]}


EVALUATION = Stage("evaluation", "evaluate", "training", _key, _work, _summarize)
