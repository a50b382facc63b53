"""The command that compares methods under one budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune.cli.commands import app
from sotune.cli.console import Output, monitored, print_figures, print_json, say
from sotune.cli.flags import with_settings
from sotune.settings import read_config

_PAGE = "compare.html"


@app.command()
@with_settings(config_file=False)
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
    from sotune.comparison.compare import FIGURES, plan_comparison, run_comparison
    from sotune.comparison.compare_settings import make_compare_settings

    changes = {} if workers is None else {"workers": workers}
    settings = make_compare_settings({**read_config(config), **changes}, origin=str(config))
    if output.dry_run:
        cells = plan_comparison(settings, out)
        n_done = sum(cell.status == "done" for cell in cells)
        lines = [f"{cell.draw}: {cell.variant}: {cell.status}" for cell in cells]
        planned = {"folder": str(out), "n_done": n_done, "cells": [dataclasses.asdict(cell) for cell in cells]}
        say(output, planned, "\n".join([*lines, f"{n_done} of {len(cells)} cells are done in {out}"]))
        return
    with monitored(output) as monitor:
        summary = run_comparison(settings, out, monitor, page=_PAGE)
    if output.as_json:
        print_json(dataclasses.asdict(summary))
        return
    title = f"means over data sets, shares and seeds, {summary.seconds:.0f} s"
    measured = [name for name in FIGURES if all(name in figures for figures in summary.means.values())]
    print_figures(output, title, summary.means, measured, summary.files)
