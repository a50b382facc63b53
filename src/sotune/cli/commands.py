"""The commands, one function each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sotune import __version__, api
from sotune.cli.console import Output, figure_table, finding_lines
from sotune.cli.evaluations import JudgeDryRun, print_judging_plan, print_models
from sotune.cli.flags import with_settings
from sotune.errors import ConfigError, GateError
from sotune.run_files import SCORES
from sotune.settings import (
    ALL_SETTINGS,
    DataSettings,
    EvaluationSettings,
    GateSettings,
    JudgeSettings,
    MethodSettings,
    ModelsSettings,
    RenderingSettings,
    RepresentationSettings,
    RunSettings,
    SeedSettings,
    SelectionSettings,
    SentinelSettings,
    TrainingSettings,
    WeightSettings,
)
from sotune.stopping import Stopped, stops_handled
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.pipeline import Explanation, ModelComparison, RunSummary

app = typer.Typer(
    name="sotune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sotune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep an aligned LLM safe while it is fine-tuned: weigh the data by push-pull optimal transport."""


@app.command(name="help")
def help_command(
    context: typer.Context, command: Annotated[str | None, typer.Argument(help="A command, like weigh.")] = None
) -> None:
    """Say what the commands are, or what COMMAND takes."""
    app([*([command] if command else []), "--help"], prog_name=context.find_root().info_name)


@app.command()
@with_settings(DataSettings, RepresentationSettings, RunSettings, arguments=["data"], shared=True)
def extract(given: Mapping[str, Any], output: Output) -> None:
    """Read the sets and encode them with the frozen model."""
    _begin("extract", given, output)


@app.command()
@with_settings(
    DataSettings,
    MethodSettings,
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    GateSettings,
    RunSettings,
    arguments=["data"],
    shared=True,
)
def weigh(given: Mapping[str, Any], output: Output) -> None:
    """Weigh DATA, keep its best rows, and write a report; does first what is missing."""
    _begin("weigh", given, output)


@app.command(name="run")
@with_settings(*ALL_SETTINGS, config_file=False, shared=True)
def run_all(
    given: Mapping[str, Any],
    output: Output,
    config: Annotated[Path, typer.Argument(help="YAML file with settings; flags override it.")],
    until: Annotated[str, typer.Option(help="Last verb: extract, weigh, select, train or evaluate.")] = "evaluate",
) -> None:
    """Do all stages of CONFIG: weigh, select, train, evaluate, report. Resumes and skips what is done."""
    _begin("run", {"config": config, **given}, output, until=until)


@app.command()
@with_settings(SelectionSettings, GateSettings, config_file=False, shared=True)
def select(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
) -> None:
    """Select again from the weights of RUN, keeping more or fewer rows."""
    _go_on("select", run, given, output)


@app.command()
@with_settings(
    MethodSettings, TrainingSettings, leave_out=[RenderingSettings, SeedSettings], config_file=False, shared=True
)
def train(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
) -> None:
    """Fine-tune the model of RUN on its kept rows with their weights."""
    _go_on("train", run, given, output)


@app.command()
@with_settings(
    JudgeSettings,
    EvaluationSettings,
    GateSettings,
    ModelsSettings,
    config_file=False,
    aliases={"eval_limit": "--limit"},
    shared=True,
)
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
        _evaluate_models(given, output, plan_only=judge_dry_run)
        return
    alone = [name for name in given if name in ModelsSettings.model_fields and name != "show_text"]
    if alone:
        raise ConfigError(f"{', '.join(alone)} cannot change a run's evaluation; give RUN, or --model without it")
    if judge_dry_run and not output.dry_run:
        with output.monitored() as monitor:
            print_judging_plan(output, api.open_run(run).plan_judging(monitor=monitor, **given))
    else:
        _go_on("evaluate", run, given, output)


@app.command()
@with_settings(GateSettings, config_file=False)
def report(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    show_text: Annotated[bool, typer.Option("--show-text", help="Show row texts, including harmful ones.")] = False,
) -> None:
    """Write the report of RUN again, from its artefacts alone."""
    _go_on("report", run, {"show_text": show_text, **given}, output)


@app.command()
@with_settings(config_file=False)
def explain(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
    ids: Annotated[list[str], typer.Argument(help="Ids of the rows to explain.")],
    show_text: Annotated[bool, typer.Option("--show-text", help="Show row texts, including harmful ones.")] = False,
) -> None:
    """Say why rows of RUN were kept or dropped: costs, nearest references, margin to the cut."""
    if output.dry_run:
        output.say({"would_explain": ids}, f"would explain {counted(len(ids), 'row')} of {run}")
        return
    found = api.explain(run, ids, show_text=show_text)
    output.show([asdict(one) for one in found], *(figure_table(one.id, _reasons(one)) for one in found), files=())


def _reasons(one: Explanation) -> dict[str, str]:
    costs = {"pull cost": one.pull_cost, "push cost": one.push_cost}
    near = {
        "nearest safe": one.nearest_safe,
        "nearest safe answers": one.nearest_safe_reference,
        "nearest harmful": one.nearest_harmful,
    }
    cited = {side: ", ".join(f"{id} ({share:.1%})" for id, share in ids.items()) for side, ids in near.items()}
    return {
        "decision": one.sentence,
        "rank": f"{one.rank:,}",
        "n · weight": f"{one.relative_weight:.4g}",
        "margin": f"{one.margin:+.4f} in log weight",
        **{name: f"{cost:.4f}" for name, cost in costs.items() if cost is not None},
        **{side: ids for side, ids in cited.items() if ids},
        **one.texts,
    }


@app.command()
@with_settings(config_file=False, shared=True)
def score(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
    data: Annotated[str, typer.Argument(help="New rows: a file, a folder or pattern of files, or a Hub id.")],
    where: Annotated[list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE; may be repeated.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="File to write: Parquet, or JSON lines if it ends in .jsonl.", show_default="RUN/scores.parquet"
        ),
    ] = None,
) -> None:
    """Weigh rows that RUN has never seen with its saved potentials, without solving again."""
    if output.dry_run:
        target = scores or run / SCORES.name
        output.say({"would_write": str(target)}, f"would score {data} with the potentials of {run}, into {target}")
        return
    with output.monitored() as monitor:
        summary = api.score(run, data, out=scores, where=where or (), monitor=monitor)
    figures = {
        "rows scored": f"{summary.n_scored:,}",
        "would be kept": f"{summary.n_would_keep:,}",
        "quarantined": f"{summary.n_quarantined:,}",
    }
    output.show(summary, figure_table("scored", figures), files=[summary.file, summary.quarantine])


@app.command()
@with_settings(config_file=False)
def env(given: Mapping[str, Any], output: Output) -> None:
    """Print the versions that a bug report needs."""
    import platform

    from sotune.artifacts import library_versions

    names = ("sotune", "torch", "transformers", "peft", "datasets", "pyarrow", "safetensors", "numpy")
    found = {"python": platform.python_version(), "system": platform.platform(), **library_versions(*names)}
    Output(quiet=False, as_json=True, dry_run=False).say(found, "")


def main() -> None:
    """Runs the command line."""
    try:
        with stops_handled():
            app()
    except Stopped as stopped:  # before or after a command's own work
        raise SystemExit(stopped.exit_status) from None


def _begin(command: str, given: Mapping[str, Any], output: Output, *, until: str | None = None) -> None:
    verb = until or command
    if output.dry_run:
        _print_plan(output, api.plan(verb, **given))
        return
    with output.monitored() as monitor, _gate_told(command, output):
        done = api.run(until=verb, monitor=monitor, **given)
    _print_summary(command, output, done.summary)


def _go_on(verb: str, run: Path, changes: Mapping[str, Any], output: Output) -> None:
    opened = api.open_run(run)
    if output.dry_run:
        _print_plan(output, opened.plan(verb, **changes))
        return
    with output.monitored() as monitor, _gate_told(verb, output):
        getattr(opened, verb)(monitor=monitor, **changes)
    _print_summary(verb, output, opened.summary)


@contextlib.contextmanager
def _gate_told(command: str, output: Output) -> Iterator[None]:
    """Prints what a command did although what it found does not meet a requirement, and lets that through."""
    try:
        yield
    except GateError as error:
        _print_summary(command, output, cast("RunSummary", error.summary))
        raise


def _evaluate_models(given: Mapping[str, Any], output: Output, *, plan_only: bool) -> None:
    if output.dry_run:
        planned = api.plan_evaluation(**given)
        names = ", ".join(planned["models"])
        output.say(
            planned, f"would ask {names} {counted(planned['n_prompts'], 'prompt')}, into {planned['would_write']}"
        )
        return
    with output.monitored() as monitor:
        if plan_only:
            print_judging_plan(output, api.plan_judging(monitor=monitor, **given))
            return
        try:
            found = api.evaluate(monitor=monitor, **given)
        except GateError as error:
            print_models(output, cast("ModelComparison", error.summary))
            raise
    print_models(output, found)


def _print_plan(output: Output, planned: RunSummary) -> None:
    lines = [f"{o.title}: {o.status}" for o in planned.stages]
    output.say(planned, f"in {planned.folder}\n" + "\n".join(lines))


def _print_summary(command: str, output: Output, summary: RunSummary) -> None:
    # Selecting is done over and over: what has not changed is said once, by the verb that made it.
    told = [o for o in summary.stages if command != "select" or o.status == "done"]
    figures = {f"{o.title}: {name}": value for o in told for name, value in o.figures.items()}
    figures |= {f"rows {name}": f"{n:,}" for name, n in summary.changed.items()}
    table = figure_table(f"sotune {command}", figures)
    output.show(summary, *finding_lines(summary.findings), table, files=summary.files)
