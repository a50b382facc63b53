"""The commands, one function each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune.cli.console import Output, monitored, print_json, print_table, say
from sotune.cli.evaluations import JudgeDryRun, print_judging_plan, print_models
from sotune.cli.flags import with_settings
from sotune.errors import ConfigError
from sotune.settings import (
    ALL_SETTINGS,
    DataSettings,
    EvaluationSettings,
    JudgeSettings,
    MethodSettings,
    ModelEvaluation,
    ModelsSettings,
    RenderingSettings,
    RepresentationSettings,
    RunConfig,
    RunSettings,
    SeedSettings,
    SelectionSettings,
    SentinelSettings,
    TrainingSettings,
    WeightSettings,
    make_config,
    make_settings,
    override,
    read_config,
)

app = typer.Typer(
    name="sotune",
    help="Keep an aligned LLM safe while it is fine-tuned: weigh the data by push-pull optimal transport.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@with_settings(DataSettings, RepresentationSettings, RunSettings, arguments=["data"])
def extract(given: Mapping[str, Any], output: Output) -> None:
    """Read the three sets and encode them with the frozen model."""
    _run_verb("extract", make_config(given), output)


@app.command()
@with_settings(
    DataSettings,
    MethodSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    RunSettings,
    arguments=["data"],
)
def weigh(given: Mapping[str, Any], output: Output) -> None:
    """Weigh DATA, keep its best rows, and write a report; does first what is missing."""
    _run_verb("weigh", make_config(given), output)


@app.command()
@with_settings(SelectionSettings, config_file=False)
def select(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
) -> None:
    """Select anew from the weights of RUN, keeping more or fewer rows."""
    _run_verb("select", _config_of(run, given), output)


@app.command()
@with_settings(MethodSettings, TrainingSettings, leave_out=[RenderingSettings, SeedSettings], config_file=False)
def train(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
) -> None:
    """Fine-tune the model of RUN on its kept rows with their weights."""
    _run_verb("train", _config_of(run, given), output)


@app.command()
@with_settings(JudgeSettings, EvaluationSettings, ModelsSettings, config_file=False, aliases={"eval_limit": "--limit"})
def evaluate(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path | None, typer.Argument(help="Run folder whose adapter is trained; or name --model.")] = None,
    judge_dry_run: JudgeDryRun = False,
) -> None:
    """Ask a base model and what was tuned from it the evaluation prompts, judge the answers, and compare them.

    Either of a RUN, or of --model and any number of --adapter without one: one table and one page, before and after.
    """
    if run is None:
        _evaluate_models(make_settings(ModelEvaluation, given), output, plan_only=judge_dry_run)
        return
    alone = [name for name in given if name in ModelsSettings.model_fields and name != "show_text"]
    if alone:
        raise ConfigError(f"{', '.join(alone)} cannot change a run's evaluation; give RUN, or --model without it")
    config = _config_of(run, given)
    if judge_dry_run and not output.dry_run:
        from sotune.pipeline import plan_judging

        with monitored(output) as monitor:
            print_judging_plan(output, plan_judging(config, monitor))
    else:
        _run_verb("evaluate", config, output)


@app.command(name="run")
@with_settings(*ALL_SETTINGS, config_file=False)
def run_all(
    given: Mapping[str, Any],
    output: Output,
    config: Annotated[Path, typer.Argument(help="YAML file with settings; flags override it.")],
    until: Annotated[str, typer.Option(help="Last verb: extract, weigh, select, train or evaluate.")] = "evaluate",
) -> None:
    """Do all stages of CONFIG: weigh, select, train, evaluate, report. Resumes and skips what is done."""
    _run_verb(until, make_config(override(read_config(config), given), origin=str(config)), output)


@app.command()
@with_settings(config_file=False)
def report(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    show_text: Annotated[bool, typer.Option("--show-text", help="Show row texts, harmful ones too.")] = False,
) -> None:
    """Write the report of RUN again, from its artefacts alone."""
    _run_verb("report", _config_of(run, {"show_text": show_text}), output)


@app.command()
@with_settings(config_file=False)
def explain(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
    ids: Annotated[list[str], typer.Argument(help="Ids of the rows to explain.")],
    show_text: Annotated[bool, typer.Option("--show-text", help="Show row texts, harmful ones too.")] = False,
) -> None:
    """Say why rows of RUN were kept or dropped: costs, nearest references, margin to the cut."""
    from sotune.pipeline import explain as explain_rows

    if output.dry_run:
        say(output, {"would_explain": ids}, f"would explain {len(ids)} rows of {run}")
        return
    found = explain_rows(run, ids, show_text=show_text)
    if output.as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    for one in found:
        costs = {"pull cost": one.pull_cost, "push cost": one.push_cost}
        near = {"nearest safe": one.nearest_safe, "nearest harmful": one.nearest_harmful}
        cited = {side: ", ".join(f"{id} ({share:.1%})" for id, share in ids.items()) for side, ids in near.items()}
        print_table(output, one.id, {
            "decision": one.sentence,
            "rank": f"{one.rank:,}",
            "n · weight": f"{one.relative_weight:.4g}",
            "margin": f"{one.margin:+.4f} in log weight",
            **{name: f"{cost:.4f}" for name, cost in costs.items() if cost is not None},
            **{side: ids for side, ids in cited.items() if ids},
            **one.texts,
        }, [])  # fmt: skip


@app.command()
@with_settings(config_file=False)
def score(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
    data: Annotated[str, typer.Argument(help="New rows: a file, a saved dataset folder, or a Hub id.")],
    where: Annotated[list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE; may be repeated.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Parquet file to write.", show_default="RUN/scores.parquet")
    ] = None,
) -> None:
    """Weigh rows that RUN has never seen with its saved potentials, without solving again."""
    from sotune.pipeline import score as score_rows

    target = scores or run / "scores.parquet"
    if output.dry_run:
        say(output, {"would_write": str(target)}, f"would score {data} with the potentials of {run}, into {target}")
        return
    with monitored(output) as monitor:
        summary = score_rows(run, data, out=target, where=tuple(where or ()), monitor=monitor)
    if not output.as_json:
        print_table(output, "scored", {
            "rows scored": f"{summary.n_scored:,}", "would be kept": f"{summary.n_would_keep:,}",
            "quarantined": f"{summary.n_quarantined:,}",
        }, [summary.file, summary.quarantine])  # fmt: skip
    else:
        say(output, dataclasses.asdict(summary), "")


@app.command()
@with_settings(config_file=False)
def env(given: Mapping[str, Any], output: Output) -> None:
    """Print the versions that a bug report needs."""
    import platform

    from sotune.artifacts import library_versions

    names = ("sotune", "torch", "transformers", "peft", "datasets", "pyarrow", "safetensors", "numpy")
    print_json({"python": platform.python_version(), "system": platform.platform(), **library_versions(*names)})


def main() -> None:
    """Runs the command line."""
    app()


def _config_of(run: Path, changes: Mapping[str, Any]) -> RunConfig:
    from sotune.artifacts import RunFolder
    from sotune.pipeline.unseen_rows import run_config

    return run_config(RunFolder.open(run), changes)


def _evaluate_models(settings: ModelEvaluation, output: Output, *, plan_only: bool) -> None:
    from sotune.evaluation.candidates import find_candidates
    from sotune.evaluation.evaluator import load_eval_prompts
    from sotune.pipeline.model_comparison import compare_models, plan_model_judging

    if output.dry_run:
        names = [candidate.name for candidate in find_candidates(settings)]
        n_prompts = len(load_eval_prompts(settings, seed=settings.seed))
        planned = {"would_write": settings.out, "models": names, "n_prompts": n_prompts}
        say(output, planned, f"would ask {', '.join(names)} {n_prompts} prompts, into {settings.out}")
        return
    if plan_only:
        with monitored(output) as monitor:
            print_judging_plan(output, plan_model_judging(settings, monitor))
        return
    with monitored(output) as monitor:
        found = compare_models(settings, monitor)
    if output.as_json:
        print_json({**found.results, "files": found.files})
        return
    print_models(output, found.results, found.files)


def _run_verb(verb: str, config: RunConfig, output: Output) -> None:
    from sotune import pipeline

    if output.dry_run:
        planned = pipeline.plan(verb, config)
        lines = [f"{o.title}: {o.status}" for o in planned.stages]
        say(output, dataclasses.asdict(planned), f"in {planned.folder}\n" + "\n".join(lines))
        return
    with monitored(output) as monitor:
        summary = pipeline.run(config, monitor, until=verb)
    if output.as_json:
        print_json(dataclasses.asdict(summary))
        return
    figures = {f"{o.title}: {name}": value for o in summary.stages for name, value in o.figures.items()}
    print_table(output, f"sotune {verb}", figures, summary.files)
