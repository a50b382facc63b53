"""Evaluation without a run folder: a base model and whatever was tuned from it, before and after, on one page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from sotune import processes
from sotune.artifacts import RunFolder, disk_faults_told, library_versions
from sotune.errors import ConfigError, GateError
from sotune.evaluation.candidates import Candidate, find_candidates
from sotune.evaluation.evaluator import load_eval_prompts
from sotune.evaluation.judges.registry import check_judges
from sotune.evaluation.metrics import JUDGE_ROLES
from sotune.evaluation.outcome import load_evaluation, save_evaluation
from sotune.evaluation.unmeasured import require_measured
from sotune.evaluation.usage import JudgingPlan
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.evaluating import ask_in, count_in, evaluate_in
from sotune.reporting import Finding, failures, write_models_report
from sotune.run_files import PAGE
from sotune.settings import ModelEvaluation
from sotune.wording import counted

_ANSWERS = "answers"
Found = TypeVar("Found")


@dataclass(frozen=True)
class ModelComparison:
    """What an evaluation of models found, and where its files lie.

    Attributes:
        folder: The folder.
        results: The content of ``evaluation.json``.
        files: What was written.
        missed: Which requirements the models do not meet.
    """

    folder: str
    results: Mapping[str, Any]
    files: tuple[str, ...]
    missed: tuple[Finding, ...] = ()


def compare_models(settings: ModelEvaluation, monitor: Monitor | None = None) -> ModelComparison:
    """Asks the base model and all others the same prompts, judges, compares them in pairs, and writes one page.

    Answers stay in the folder: a call that was stopped goes on, and one with a further adapter asks that one alone.

    Raises:
        GateError: A model does not meet a requirement.
        SotuneError: Prompts, models or settings are wrong; the message says what to do.
    """
    if settings.require_pass is not None:
        raise ConfigError("require_pass is about the rows of a run; leave it out where models are evaluated alone")
    return _lead(lambda: _compare(settings, monitor or Silent()), settings)


def _compare(settings: ModelEvaluation, watch: Monitor) -> ModelComparison:
    with _opened(settings) as run:
        prompts, candidates = load_eval_prompts(settings), find_candidates(settings)
        watch.stage(f"asking {counted(len(candidates), 'model')} {counted(len(prompts), 'prompt')}", "running")
        processes.call(_ANSWERS, lambda: _ask(settings, watch))
        found = evaluate_in(run, settings, candidates, prompts, watch, answers=_ANSWERS)
        about = {
            "models": {c.name: _describe(c) for c in candidates},
            "settings": _recorded(settings),
            "versions": library_versions("sotune", "torch", "transformers", "peft"),
        }
        files = save_evaluation(run.path, found, about=about)
        write_models_report(run, show_text=settings.show_text)
        require_measured(found, str(run.path))
    paths = tuple(str(run.file(name)) for name in (*files, PAGE))
    results = load_evaluation(run.path)
    missed = tuple(failures(settings, None, results))
    compared = ModelComparison(str(run.path), results, paths, missed)
    if missed:
        raise GateError(" ".join(one.sentence for one in missed), compared)
    return compared


def plan_model_judging(settings: ModelEvaluation, monitor: Monitor | None = None) -> JudgingPlan:
    """Asks the models and counts what judging their answers would ask of the endpoint; asks it nothing.

    Raises:
        SotuneError: Prompts, models or settings are wrong, or no chat judge is named; the message says what to do.
    """
    return _lead(lambda: _count(settings, monitor or Silent()), settings)


def _count(settings: ModelEvaluation, watch: Monitor) -> JudgingPlan:
    with _opened(settings) as run:
        candidates, prompts = find_candidates(settings), load_eval_prompts(settings)
        processes.call(_ANSWERS, lambda: _ask(settings, watch))
        return count_in(run, settings, candidates, prompts, watch, answers=_ANSWERS)


def _ask(settings: ModelEvaluation, watch: Monitor) -> None:
    run = RunFolder.open(Path(settings.out))
    ask_in(run, settings, find_candidates(settings), load_eval_prompts(settings), watch, answers=_ANSWERS)


def _lead(work: Callable[[], Found], settings: ModelEvaluation) -> Found:
    """Does work in main, which all other processes help to ask the models."""
    return processes.lead(work, {_ANSWERS: lambda _: _ask(settings, Silent())})


def _describe(candidate: Candidate) -> dict[str, Any]:
    """Returns what names a model by its content; where it lies is nobody's business."""
    content = candidate.fingerprints
    return {
        "name": Path(candidate.spec.name).name,
        "fingerprint": content["model"],
        "adapter": content["adapter"],
    }


def _recorded(settings: ModelEvaluation) -> dict[str, Any]:
    """Returns the settings without what is nobody's business: where files and endpoints lie."""
    hidden = {"out", "model", "adapter", "threads", "judge_base_url", "judge_key_env", "judge_cache_dir"}
    hidden |= {"server_base_url", "server_key_env"}
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


@contextlib.contextmanager
def _opened(settings: ModelEvaluation) -> Iterator[RunFolder]:
    """Yields the folder of an evaluation that can be done, held for this process."""
    check_judges(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    run = RunFolder(Path(settings.out))
    with run.lock(), disk_faults_told(run.path):
        yield run
