"""Evaluation without a run folder: a base model and whatever was tuned from it, before and after, on one page."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, write_json, write_text
from sotune.errors import ConfigError
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.evaluating import asking_of, load_eval_prompts
from sotune.pipeline.judging import CACHE, JudgingPlan, check_judges, describe_judging, make_judges, plan_questions
from sotune.pipeline.measuring import Candidate, Measured, ask_models, describe_diagnostics, measure_models
from sotune.settings import ModelEvaluation

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt

BASE = "base"
RESULTS, PROMPTS = "evaluation.json", "prompts.jsonl"
_PARTS = "answers"


@dataclass(frozen=True)
class ModelComparison:
    """What an evaluation of models found, and where its files lie.

    Attributes:
        folder: The folder.
        results: The content of ``evaluation.json``.
        files: What was written.
    """

    folder: str
    results: Mapping[str, Any]
    files: tuple[str, ...]


def compare_models(settings: ModelEvaluation, monitor: Monitor | None = None) -> ModelComparison:
    """Asks the base model and all others the same prompts, judges, compares them in pairs, and writes one page.

    Answers stay in the folder: a call that was stopped goes on, and one with a further adapter asks that one alone.

    Raises:
        SotuneError: Prompts, models or settings are at fault; the message says what to do.
    """
    from sotune.reporting import write_models_report

    watch = monitor or Silent()
    check_judges(settings)
    _limit_threads(settings)
    run = RunFolder(Path(settings.out))
    with run.lock():
        prompts = load_eval_prompts(settings, seed=settings.seed)
        candidates = find_candidates(settings)
        watch.stage(f"asking {len(candidates)} models {len(prompts)} prompts", "running")
        found = measure_models(
            prompts,
            functools.partial(make_judges, settings, run.file(CACHE), watch),
            candidates,
            asking=asking_of(settings),
            parts=run.file(_PARTS),
            on_progress=watch.progress,
        )
        measured = found.models
        results = {
            "models": {c.name: _describe_model(c) for c in candidates},
            "metrics": {name: _metrics(entry) for name, entry in measured.items()},
            "assessments": _assess(prompts, measured),
            "judges": dict(measured[BASE].result.judges),
            "diagnostics": describe_diagnostics(prompts, found),
            "judging": describe_judging(prompts, found, settings=settings, monitor=watch),
            "n_prompts": dict(Counter(prompt.kind for prompt in prompts)),
            "settings": _recorded(settings),
            "versions": library_versions("sotune", "torch", "transformers", "peft"),
        }
        files = [*_save(run, prompts, measured), RESULTS]
        write_json(run.file(RESULTS), results)
        write_models_report(run, show_text=settings.show_text)
    paths = tuple(str(run.file(name)) for name in (*files, "report.html"))
    return ModelComparison(str(run.path), results, paths)


def plan_model_judging(settings: ModelEvaluation, monitor: Monitor | None = None) -> JudgingPlan:
    """Asks the models and counts what judging their answers would ask of the endpoint; asks it nothing.

    Raises:
        SotuneError: Prompts, models or settings are at fault, or no chat judge is named; the message says what to do.
    """
    watch = monitor or Silent()
    check_judges(settings)
    _limit_threads(settings)
    run = RunFolder(Path(settings.out))
    with run.lock():
        prompts = load_eval_prompts(settings, seed=settings.seed)
        judges = make_judges(settings, run.file(CACHE), watch, load_models=False)
        answers = ask_models(
            prompts,
            find_candidates(settings),
            asking=asking_of(settings),
            parts=run.file(_PARTS),
            on_progress=watch.progress,
        )
        return plan_questions(judges, prompts, answers, settings)


def find_candidates(settings: ModelEvaluation) -> list[Candidate]:
    """Returns the base model and, under names that tell them apart, everything that is compared with it.

    Raises:
        ConfigError: An adapter's folder does not exist or holds neither an adapter nor a model.
    """
    from sotune.models import ModelSpec

    base = ModelSpec(
        settings.model, settings.revision, settings.dtype, settings.device, trust_remote_code=settings.trust_remote_code
    )
    candidates = [Candidate(BASE, base)]
    for name, path in zip(_names(settings.adapter), settings.adapter, strict=True):
        folder = Path(path).expanduser()
        if (folder / "adapter_config.json").is_file():
            if not (folder / "adapter_model.safetensors").is_file():
                raise ConfigError(f"{path} has no adapter_model.safetensors; save the adapter as safetensors")
            candidates.append(Candidate(name, base, folder))
        elif (folder / "config.json").is_file():
            candidates.append(Candidate(name, dataclasses.replace(base, name=str(folder), revision=None)))
        else:
            raise ConfigError(f"{path} is neither a folder of a PEFT adapter nor one of a model; check the path")
    return candidates


def _names(paths: Sequence[str]) -> list[str]:
    """Returns the folders' own names; a parent's where the own name is the same for all adapters, then numbered."""
    names: list[str] = []
    for path in paths:
        folder = Path(path).expanduser().resolve()
        generic = folder.name in ("adapter", "model") or folder.name.startswith("checkpoint-")
        name = f"{folder.parent.name}-{folder.name}".removesuffix("-adapter") if generic else folder.name
        while name in (*names, BASE):
            name += "-2"
        names.append(name)
    return names


def _describe_model(candidate: Candidate) -> dict[str, Any]:
    """Returns what names a model by its content; where it lies is nobody's business."""
    from sotune.artifacts import sha256_file
    from sotune.models import model_fingerprint

    adapter = candidate.adapter
    return {
        "name": Path(candidate.spec.name).name,
        "fingerprint": model_fingerprint(candidate.spec),
        "adapter": None if adapter is None else sha256_file(adapter / "adapter_model.safetensors"),
    }


def _metrics(measured: Measured) -> dict[str, Any]:
    from sotune.evaluation import metrics_to_json

    return metrics_to_json(measured.result.metrics)


def _assess(prompts: Sequence[EvalPrompt], measured: Mapping[str, Measured]) -> dict[str, dict[str, str]]:
    """Says in one word what each model is, where harm was measured.

    The others are held against the base. The base stands for itself, without the prompts of the task: it need not
    know yet what the others were tuned for.
    """
    from sotune.evaluation import assess, compute_metrics
    from sotune.pipeline.measuring import CONFIDENCE, N_RESAMPLES

    baseline = measured[BASE].result
    if "harmful_rate" not in baseline.metrics:
        return {}
    known = [prompt for prompt in prompts if prompt.kind != "task"]
    own = compute_metrics(known, baseline.verdicts, confidence=CONFIDENCE, n_resamples=N_RESAMPLES, seed=0)
    found = {
        name: assess(own) if name == BASE else assess(entry.result.metrics, baseline.metrics)
        for name, entry in measured.items()
    }
    return {name: {"label": word.label, "reason": word.reason} for name, word in found.items()}


def _recorded(settings: ModelEvaluation) -> dict[str, Any]:
    """Returns the settings without what is nobody's business: where files and endpoints lie."""
    from sotune.evaluation.metrics import JUDGE_ROLES

    hidden = {"out", "model", "adapter", "threads", "judge_base_url", "judge_key_env", "judge_cache_dir"}
    recorded = settings.model_dump(mode="json", exclude=hidden)
    if settings.eval_prompts is not None:
        recorded["eval_prompts"] = ",".join(_bare(part, "=") for part in settings.eval_prompts.split(","))
    for role in JUDGE_ROLES:
        recorded[f"{role}_judge"] = [_bare(source, ":") for source in recorded[f"{role}_judge"]]
    return recorded


def _bare(source: str, separator: str) -> str:
    """Returns ``PATH`` or ``NAME=PATH`` without the folders."""
    name, mark, path = source.partition(separator) if separator in source else ("", "", source)
    return f"{name}{mark}{Path(path).name}"


def _save(run: RunFolder, prompts: Sequence[EvalPrompt], measured: Mapping[str, Measured]) -> list[str]:
    import json

    from sotune.evaluation import save_responses, save_verdicts

    lines = [
        {
            "id": prompt.id,
            "kind": prompt.kind,
            "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "reference": prompt.reference,
        }
        for prompt in prompts
    ]
    write_text(run.file(PROMPTS), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    files = [PROMPTS]
    for name, entry in measured.items():
        save_responses(run.file(f"{name}.responses.parquet"), entry.responses)
        save_verdicts(run.file(f"{name}.verdicts.parquet"), entry.result.verdicts)
        files += [f"{name}.responses.parquet", f"{name}.verdicts.parquet"]
    return files


def _limit_threads(settings: ModelEvaluation) -> None:
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
