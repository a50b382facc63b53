"""One function for each thing that begins without a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune import pipeline
from sotune.api.keywords import plain, takes
from sotune.api.run_handle import Run
from sotune.api.watching import watched
from sotune.monitoring import Monitor
from sotune.settings import (
    InspectionSettings,
    JudgeCheckSettings,
    ModelEvaluation,
    RunConfig,
    make_config,
    make_settings,
    override,
    read_config,
)

if TYPE_CHECKING:
    from sotune.comparison import PlannedCell
    from sotune.comparison.compare import CompareSummary
    from sotune.comparison.compare_settings import CompareSettings
    from sotune.evaluation.usage import JudgingPlan
    from sotune.pipeline import Estimate, Inspection, ModelComparison, RunSummary

Source = str | PathLike[str]
"""A file, a folder or pattern of files, a saved dataset folder, or a Hub id."""
Config = str | PathLike[str] | Mapping[str, Any]
"""A YAML file of settings, or the settings themselves."""

_PAGE = "compare.html"


@takes(RunConfig)
def extract(
    data: Source | None = None, *, config: Config | None = None, monitor: Monitor | None = None, **settings: Any
) -> Run:
    """Reads the sets and encodes them with the frozen model. See `weigh` for the arguments."""
    return _start("extract", data, config, settings, monitor)


@takes(RunConfig)
def weigh(
    data: Source | None = None, *, config: Config | None = None, monitor: Monitor | None = None, **settings: Any
) -> Run:
    """Weighs rows, keeps the best, and writes a report; resumes, and skips what is done.

    Args:
        data: Rows to weigh: a file, a folder or pattern of files, or a Hub id.
        config: YAML file of settings, or a mapping; keywords override it.
        monitor: Receives progress; by default, bars in a terminal or notebook.
        settings: Any settings of a run, those of later verbs too.

    Returns:
        The run.

    Raises:
        SotuneError: Data or settings are wrong, or the work failed; the message says what to do.
    """
    return _start("weigh", data, config, settings, monitor)


@takes(RunConfig)
def run(
    data: Source | None = None,
    *,
    config: Config | None = None,
    until: str = "evaluate",
    monitor: Monitor | None = None,
    **settings: Any,
) -> Run:
    """Weighs, selects, trains, evaluates and reports, or stops after the verb ``until``. See `weigh`."""
    return _start(until, data, config, settings, monitor)


@takes(RunConfig)
def estimate(
    data: Source | None = None,
    *,
    config: Config | None = None,
    gpu: str | None = None,
    devices: int = 1,
    monitor: Monitor | None = None,
    **settings: Any,
) -> Estimate:
    """Says what a run would take: time, memory and disk of each stage, and what judges cost. Starts nothing.

    Args:
        data: As in `weigh`.
        config: As in `weigh`.
        gpu: A device by name, like ``h100``; ``None`` measures this machine.
        devices: How many of them work together.
        monitor: Receives progress.
        settings: Any settings of a run.

    Raises:
        SotuneError: Data or settings are wrong; the message says what to do.
    """
    from sotune.pipeline import estimate_run

    made = _config(data, config, settings)
    with watched(monitor) as watch:
        return estimate_run(made, watch, gpu=gpu, n_devices=devices)


@takes(InspectionSettings)
def inspect_data(
    data: Source | None = None, *, config: Config | None = None, monitor: Monitor | None = None, **settings: Any
) -> Inspection:
    """Reads rows as `weigh` would, renders and measures each, and writes nothing.

    Args:
        data: The rows: a file, a saved dataset folder, or a Hub id.
        config: YAML file of a run's settings, or a mapping; keywords override it.
        monitor: Receives progress; by default, bars in a terminal or notebook.
        settings: How rows are read and rendered; with a ``model``, tokens are counted too.

    Returns:
        What was detected, totals, lengths, what would be quarantined, and some rows as a model would read them.

    Raises:
        SotuneError: The data cannot be read, or a setting is wrong; the message says what to do.
    """
    made = _inspection_settings(data, config, settings)
    with watched(monitor) as watch:
        return pipeline.inspect_data(made, watch)


def plan_inspection(
    data: Source | None = None, *, config: Config | None = None, **settings: Any
) -> dict[str, str | None]:
    """Says what `inspect_data` would read, and with whose tokenizer; touches nothing."""
    made = _inspection_settings(data, config, settings)
    return {"data": made.data, "model": made.model, "template": made.template}


def plan(verb: str, data: Source | None = None, *, config: Config | None = None, **settings: Any) -> RunSummary:
    """Tells which stages a verb would run, and touches nothing. See `weigh` for the arguments."""
    return pipeline.plan(verb, _config(data, config, settings))


@takes(ModelEvaluation)
def evaluate(*, monitor: Monitor | None = None, **settings: Any) -> ModelComparison:
    """Asks a base model and what was tuned from it the same prompts, judges, and compares them, without a run.

    Raises:
        SotuneError: Prompts, models or settings are wrong; the message says what to do.
    """
    with watched(monitor) as watch:
        return pipeline.compare_models(make_settings(ModelEvaluation, plain(settings)), watch)


def plan_evaluation(**settings: Any) -> dict[str, Any]:
    """Says which models `evaluate` would ask how many prompts, and touches nothing."""
    from sotune.evaluation.candidates import find_candidates
    from sotune.evaluation.evaluator import load_eval_prompts

    made = make_settings(ModelEvaluation, plain(settings))
    names = [candidate.name for candidate in find_candidates(made)]
    return {"would_write": made.out, "models": names, "n_prompts": len(load_eval_prompts(made))}


def plan_judging(*, monitor: Monitor | None = None, **settings: Any) -> JudgingPlan:
    """Answers the prompts of `evaluate`, and says what chat judges would be asked; asks them nothing."""
    with watched(monitor) as watch:
        return pipeline.plan_model_judging(make_settings(ModelEvaluation, plain(settings)), watch)


@takes(JudgeCheckSettings)
def judge_check(labeled: Source, *, monitor: Monitor | None = None, **settings: Any) -> dict[str, Any]:
    """Measures a judge against human labels, and corrects rates for its known error (Rogan and Gladen).

    Args:
        labeled: JSONL with prompt, response, label, and optionally category.
        monitor: Receives progress; by default, bars in a terminal or notebook.
        settings: Which judge, and how the rows are read.

    Returns:
        The judge, its figures, those by category, and corrected rates, as written to ``out``.

    Raises:
        DataError: The rows are faulty, or one class is missing.
        ConfigError: The judge could not be loaded, or a setting is wrong.
    """
    from sotune.evaluation.checking import check_judge

    with watched(monitor) as watch:
        return check_judge(Path(labeled), make_settings(JudgeCheckSettings, plain(settings)), watch)


def plan_judge_check(labeled: Source, **settings: Any) -> JudgingPlan:
    """Says what `judge_check` would ask a chat judge; asks it nothing."""
    from sotune.evaluation.checking import plan_judge_check as count_questions

    return count_questions(Path(labeled), make_settings(JudgeCheckSettings, plain(settings)))


def compare(
    config: Config, *, out: Source = "sotune-compare", monitor: Monitor | None = None, **settings: Any
) -> CompareSummary:
    """Compares methods on data sets, harmful shares and seeds under one budget; resumes where it stood.

    Args:
        config: YAML file of methods, datasets, harmful_fractions, seeds and the budget, or a mapping of them.
        out: Folder for cells, results and page.
        monitor: Receives progress; by default, bars in a terminal or notebook.
        settings: Override those of ``config``.

    Raises:
        SotuneError: Data or settings are wrong, or the work failed; the message says what to do.
    """
    from sotune.comparison.compare import run_comparison

    made = _compare_settings(config, settings)
    with watched(monitor) as watch:
        return run_comparison(made, Path(out), watch, page=_PAGE)


def plan_comparison(config: Config, *, out: Source = "sotune-compare", **settings: Any) -> list[PlannedCell]:
    """Lists the cells of a comparison and which are done; touches nothing."""
    from sotune.comparison.compare import plan_comparison as list_cells

    return list_cells(_compare_settings(config, settings), Path(out))


def _start(
    verb: str, data: Source | None, config: Config | None, settings: Mapping[str, Any], monitor: Monitor | None
) -> Run:
    made = _config(data, config, settings)
    with watched(monitor) as watch:
        summary = pipeline.run(made, watch, until=verb)
    return Run(made.out, summary)


def _config(data: Source | None, config: Config | None, settings: Mapping[str, Any]) -> RunConfig:
    given = plain(settings) if data is None else plain({"data": data, **settings})
    if config is None:
        return make_config(given)
    return make_config(override(_content(config), given), origin=_origin(config))


def _inspection_settings(data: Source | None, config: Config | None, settings: Mapping[str, Any]) -> InspectionSettings:
    given = plain(settings) if data is None else plain({"data": data, **settings})
    if config is None:
        return InspectionSettings.of(given)
    run = make_config(_content(config), origin=_origin(config))
    of_run = {name: getattr(run, name) for name in InspectionSettings.model_fields if name in run.model_fields_set}
    return InspectionSettings.of({**of_run, **given})


def _compare_settings(config: Config, settings: Mapping[str, Any]) -> CompareSettings:
    from sotune.comparison.compare_settings import make_compare_settings

    return make_compare_settings({**_content(config), **plain(settings)}, origin=_origin(config))


def _content(config: Config) -> dict[str, Any]:
    return plain(config) if isinstance(config, Mapping) else read_config(Path(config))


def _origin(config: Config) -> str:
    return "settings" if isinstance(config, Mapping) else str(config)
