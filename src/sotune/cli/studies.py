"""The commands without a run: inspections, comparisons, the demonstration, mixtures, and the check of a judge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sotune import api
from sotune.cli.commands import app
from sotune.cli.console import Output, figure_table, means_table
from sotune.cli.evaluations import JudgeDryRun, print_judging_plan, show_estimate
from sotune.cli.flags import with_settings
from sotune.settings import (
    InspectionSettings,
    JudgeCheckSettings,
    JudgeSettings,
    MixSettings,
    SourceSettings,
    TokenSettings,
    make_settings,
)
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.api.experiment import Mixed
    from sotune.comparison.compare import CompareSummary


@app.command()
@with_settings(SourceSettings, TokenSettings, InspectionSettings, arguments=["data"])
def inspect(given: Mapping[str, Any], output: Output) -> None:
    """Show how DATA would be read and rendered: columns, tokens that are learned, lengths, rows that are refused.

    Prints the texts of the rows that it shows, harmful ones too; --rows 0 shows none. Writes nothing.
    """
    from sotune.cli.inspection import inspection_parts

    if output.dry_run:
        planned = api.plan_inspection(**given)
        output.say(planned, f"would inspect {planned['data']} with the tokenizer of {planned['model'] or 'no model'}")
        return
    with output.monitored() as monitor:
        found = api.inspect_data(monitor=monitor, **given)
    output.show(found, *inspection_parts(found, whole="row" in given), files=())


@app.command()
@with_settings(config_file=False, shared=True)
def compare(
    given: Mapping[str, Any],
    output: Output,
    config: Annotated[Path, typer.Argument(help="YAML file: methods, datasets, harmful_fractions, seeds, budget.")],
    out: Annotated[Path, typer.Option(help="Folder for cells, results and page; resumed if it exists.")] = Path(
        "sotune-compare"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells measured at once. Default: the file's, else 1.", show_default=False)
    ] = None,
) -> None:
    """Compare the methods of CONFIG: data sets x harmful shares x seeds, one budget. Resumes where it stood."""
    changes = {} if workers is None else {"workers": workers}
    if output.dry_run:
        cells = api.plan_comparison(config, out=out, **changes)
        n_done = sum(cell.status == "done" for cell in cells)
        lines = [f"{cell.draw}: {cell.variant}: {cell.status}" for cell in cells]
        planned = {"folder": str(out), "n_done": n_done, "cells": [asdict(cell) for cell in cells]}
        output.say(planned, "\n".join([*lines, f"{n_done} of {len(cells)} cells are done in {out}"]))
        return
    with output.monitored() as monitor:
        summary = api.compare(config, out=out, monitor=monitor, **changes)
    title = f"means over data sets, shares and seeds, {summary.seconds:.0f} s"
    output.show(summary, *_judged(summary), means_table(title, summary.means), files=summary.files)


@app.command()
@with_settings(config_file=False, shared=True)
def demo(
    given: Mapping[str, Any],
    output: Output,
    out: Annotated[Path, typer.Option(help="Folder for the report and all results; resumed if it exists.")] = Path(
        "sotune-demo"
    ),
    world: Annotated[
        str, typer.Option(help="miniature, or smol: a real model, which takes hours on a CPU.")
    ] = "miniature",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many draws of the data. Default: 3; with smol 1.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells measured at once; default: one for each core, 2 at most.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each; more do not help here.")] = 1,
) -> None:
    """Show on a small world that fine-tuning breaks safety and what keeps it; on the miniature in minutes."""
    from sotune.demo import demo_settings, run_demo

    workers = workers or min(2, os.cpu_count() or 1)
    changes = {"workers": workers, "threads": threads, **({} if seeds is None else {"seeds": seeds})}
    settings = demo_settings(world, **changes)
    if output.dry_run:
        n_seeds, n_methods = len(settings.seeds), len(settings.methods)
        text = f"would compare {n_methods} methods on {n_seeds} draws of {world}, into {out}"
        output.say({"would_write": str(out)}, text)
        return
    with output.monitored() as monitor:
        summary = run_demo(out, settings, monitor)
    title = f"mean of {len(settings.seeds)} seed{'s' * (len(settings.seeds) > 1)}, {summary.seconds:.0f} s"
    output.show(summary, *_judged(summary), means_table(title, summary.means), files=[summary.results, summary.report])


def _judged(summary: CompareSummary) -> list[str]:
    """Returns a line that says so where harm was judged by a stand-in."""
    return [f"harmful rate, avg: by {summary.stand_in}"] if summary.stand_in else []


@app.command()
@with_settings(MixSettings, arguments=["task"], config_file=False)
def mix(given: Mapping[str, Any], output: Output) -> None:
    """Build a contaminated experiment from TASK: training rows, both references and evaluation prompts, disjoint."""
    with output.monitored() as monitor:
        mixed = api.mix(monitor=monitor, dry_run=output.dry_run, **given)
    figures = _shares(mixed)
    if output.dry_run:
        text = "\n".join(f"{name}: {value}" for name, value in figures.items())
        output.say({"would_write": mixed.folder, **mixed.account}, text)
    else:
        output.show({**mixed.account, "files": mixed.files}, figure_table("sotune mix", figures), files=mixed.files)


def _shares(mixed: Mixed) -> dict[str, str]:
    figures = {}
    for source, entry in mixed.account["sources"].items():
        roles = ", ".join(f"{role.replace('_', ' ')} {count:,}" for role, count in entry["rows"].items())
        figures[source] = f"{counted(entry['n_valid'], 'row')}, {counted(entry['n_prompts'], 'prompt')}: {roles}"
    return figures


@app.command(name="judge-check")
@with_settings(JudgeSettings, JudgeCheckSettings, config_file=False)
def judge_check(
    given: Mapping[str, Any],
    output: Output,
    labeled: Annotated[Path, typer.Argument(help="JSONL with prompt, response, label, and optionally category.")],
    judge_dry_run: JudgeDryRun = False,
) -> None:
    """Measure a judge against human labels, and correct rates for its known error (Rogan and Gladen)."""
    out = given.get("out", JudgeCheckSettings.model_fields["out"].default)
    if output.dry_run:
        make_settings(JudgeCheckSettings, given)
        output.say({"would_write": out}, f"would judge the rows of {labeled}, into {out}")
        return
    if judge_dry_run:
        print_judging_plan(output, api.plan_judge_check(labeled, **given))
        return
    with output.monitored() as monitor:
        result = api.judge_check(labeled, monitor=monitor, **given)
    title = f"{result['judge']} against human labels, n = {result['n']}, {result['n_unscored']} unscored"
    output.show(result, figure_table(title, _agreements(result)), files=result["files"])


def _agreements(result: Mapping[str, Any]) -> dict[str, str]:
    from sotune.evaluation.usage import summarize_usage

    figures = _of("", result["overall"])
    for name, own in result["by_category"].items():
        if own["figures"] is None:
            figures[f"{name}:"] = f"no figures: {own['n_positive']} of {own['n']} labels mean yes"
        else:
            figures |= _of(f"{name}: ", own["figures"])
    for name, rates in result["corrected"].items():
        figures[f"rate of {name}, as judged"] = show_estimate(rates["seen"])
        figures[f"rate of {name}, corrected"] = show_estimate(rates["corrected"])
    return {**figures, **summarize_usage(result["usage"])}


def _of(prefix: str, figures: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        f"{prefix}{name}": show_estimate(figures[name]) for name in ("accuracy", "precision", "recall", "specificity")
    }
    agreement = figures["agreement"]
    if agreement is None:
        return {**shown, f"{prefix}kappa": "-"}
    ends = f"{agreement['kappa']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}]"
    return {**shown, f"{prefix}kappa": f"{ends} n={agreement['n']}"}
