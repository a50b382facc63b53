"""Sixth stage: what the base model and the tuned one answer, what the judges hold of it, and the figures."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sotune import processes
from sotune.artifacts import RunFolder, library_versions
from sotune.cluster import Engine, engine_of
from sotune.evaluation.asking import ask_models
from sotune.evaluation.candidates import BASE, Candidate
from sotune.evaluation.evaluator import asking_of, evaluate, load_eval_prompts, plan_evaluation, prompt_sources
from sotune.evaluation.judges.registry import judge_key, make_judges
from sotune.evaluation.outcome import TUNED, Evaluation, load_evaluation, save_evaluation
from sotune.evaluation.protocol import EvalPrompt
from sotune.evaluation.unmeasured import require_measured
from sotune.evaluation.usage import CACHE, JudgingPlan, summarize_judging
from sotune.freshness import require_fresh
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.base_model import base_model
from sotune.pipeline.record_sets import read_kept, read_records
from sotune.pipeline.stage import Figures, Stage
from sotune.records import SET_NAMES, Record
from sotune.reporting.finding import FED_BY_HARM, stand_in
from sotune.run_files import ADAPTER
from sotune.sentinels import normalize_prompt
from sotune.settings import ModelEvaluation, RenderingSettings, RunConfig

Name = TypeVar("Name", bound=str)

_ANSWERS = "evaluation-parts"


def _key(config: RunConfig) -> dict[str, Any]:
    asked = (
        "eval_prompts",
        "eval_limit",
        "eval_system",
        "max_new_tokens",
        "eval_batch_size",
        "dtype",
        "diagnostics",
        "seed",
    )
    return {
        "settings": {name: getattr(config, name) for name in asked},
        "rendering": config.part(RenderingSettings).model_dump(mode="json"),
        "judges": judge_key(config),
        **({"server": [config.server_base_url, config.served_names]} if config.server_base_url else {}),
        "prompts": [source.digest for source in prompt_sources(config)],
        "libraries": library_versions("torch", "transformers", "peft"),
    }


def _ask(config: RunConfig, run: RunFolder, monitor: Monitor) -> None:
    engine = engine_of(config, threads=config.threads, device=config.device)
    candidates, prompts = _candidates(config, run), load_eval_prompts(config)
    ask_in(run, config, candidates, prompts, monitor, answers=_ANSWERS, engine=engine)


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    if config.engine == "local":
        processes.call("evaluation", lambda: _ask(config, run, monitor))
    else:
        _ask(config, run, monitor)
    prompts = load_eval_prompts(config)
    trained_on = {
        "kept rows": read_kept(run)[0],
        **dict[str, Sequence[Record]](read_records(run, *SET_NAMES[1:]).items()),
    }
    for name, n in count_shared(prompts, trained_on).items():
        words = name.replace("_", " ")
        monitor.warn(f"{n:,} evaluation prompts are prompts of the {words} too; rates on them say little of new ones")
    found = evaluate_in(run, config, _candidates(config, run), prompts, monitor, answers=_ANSWERS)
    outputs = save_evaluation(run.path, found, kind="run")
    require_measured(found, str(run.path))
    shutil.rmtree(run.file(_ANSWERS), ignore_errors=True)  # all that they held is in the responses now
    return outputs


def count_shared(prompts: Sequence[EvalPrompt], sets: Mapping[Name, Sequence[Record]]) -> dict[Name, int]:
    """Returns how many distinct prompts are those of rows of some sets too; only sets that share some."""
    asked = {normalize_prompt(prompt.messages[-1].content) for prompt in prompts}
    shared = {
        name: len({said for row in rows if row.prompt and (said := normalize_prompt(row.prompt[-1].text)) in asked})
        for name, rows in sets.items()
    }
    return {name: n for name, n in shared.items() if n}


def count_judging(config: RunConfig, monitor: Monitor) -> JudgingPlan:
    """Answers the prompts and counts what judging the answers would ask of the endpoint; asks it nothing.

    The answers stay in the run folder, so that the evaluation itself does not ask the models again.

    Raises:
        ArtifactError: The folder is another process's, or training has not finished or is stale.
        ConfigError: No chat judge is named.
    """
    prompts = load_eval_prompts(config)
    run = RunFolder.open(Path(config.out))
    require_fresh(run, "training")

    def count() -> JudgingPlan:
        with run.lock():
            for name in run.digests("training"):
                run.checked(name)
            processes.call("evaluation", lambda: _ask(config, run, monitor))
            return count_in(run, config, _candidates(config, run), prompts, monitor, answers=_ANSWERS)

    return processes.lead(count, {"evaluation": lambda _: _ask(config, run, Silent())})


def ask_in(
    run: RunFolder,
    settings: RunConfig | ModelEvaluation,
    candidates: Sequence[Candidate],
    prompts: Sequence[EvalPrompt],
    monitor: Monitor,
    *,
    answers: str,
    engine: Engine | None = None,
) -> None:
    """Asks models some prompts, in all processes at once; the answers then lie where an evaluation finds them."""
    ask_models(
        prompts,
        candidates,
        asking=asking_of(settings, settings.part(RenderingSettings), settings.seed),
        answers_dir=Path(settings.answers_dir or run.file(answers)),
        on_progress=monitor.progress,
        engine=engine,
    )


def evaluate_in(
    run: RunFolder,
    settings: RunConfig | ModelEvaluation,
    candidates: Sequence[Candidate],
    prompts: Sequence[EvalPrompt],
    monitor: Monitor,
    *,
    answers: str,
) -> Evaluation:
    """Asks models some prompts and judges, as the settings say; answers lie in the run unless these name a folder."""
    return evaluate(
        candidates,
        prompts,
        functools.partial(make_judges, settings, run.file(CACHE), monitor),
        settings=settings,
        rendering=settings.part(RenderingSettings),
        seed=settings.seed,
        answers_dir=Path(settings.answers_dir or run.file(answers)),
        monitor=monitor,
    )


def count_in(
    run: RunFolder,
    settings: RunConfig | ModelEvaluation,
    candidates: Sequence[Candidate],
    prompts: Sequence[EvalPrompt],
    monitor: Monitor,
    *,
    answers: str,
) -> JudgingPlan:
    """Asks models the same, and counts what judging would ask of the endpoint."""
    return plan_evaluation(
        candidates,
        prompts,
        settings=settings,
        rendering=settings.part(RenderingSettings),
        seed=settings.seed,
        answers_dir=Path(settings.answers_dir or run.file(answers)),
        judge_answers=run.file(CACHE),
        monitor=monitor,
    )


def _candidates(config: RunConfig, run: RunFolder) -> list[Candidate]:
    base = base_model(config)
    return [Candidate(BASE, base), Candidate(TUNED, base, run.file(ADAPTER))]


def _summarize(run: RunFolder) -> Figures:
    found = load_evaluation(run.path)
    before, after = found["metrics"][BASE], found["metrics"][TUNED]
    by = " (stand-in judge)" if stand_in(found["judges"]) else ""
    figures = {
        f"{name.replace('_', ' ')}{by if name in FED_BY_HARM else ''}": f"{before[name]['value']:.3f} → {_told(entry)}"
        for name, entry in after.items()
        if name in before
    }
    verdict = found["assessments"].get(TUNED, {"label": "none: harm was not measured"})["label"]
    return {**figures, **summarize_judging(found["judging"]), "verdict": verdict}


def _told(entry: Mapping[str, Any]) -> str:
    unreadable = f", {entry['n_unreadable']} unreadable" if entry.get("n_unreadable") else ""
    ends = f"[{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['value']:.3f} {ends}, n = {entry['n']}, {entry['n_unscored']} unscored{unreadable}"


_SURVIVES = "answers and judgments that were written are kept, and nobody is asked for them again"
EVALUATE = Stage(
    "evaluation", "evaluate", "training", _key, _work, _summarize, version=3, shared=_ask, survives=_SURVIVES
)
