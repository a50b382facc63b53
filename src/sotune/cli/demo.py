"""The command of the demonstration."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune.cli.commands import app
from sotune.cli.console import Output, monitored, print_figures, print_json, say
from sotune.cli.flags import with_settings


@app.command()
@with_settings(config_file=False)
def demo(
    given: Mapping[str, Any],
    output: Output,
    out: Annotated[Path, typer.Option(help="Folder for the report and all results; resumed if it exists.")] = Path(
        "sotune-demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many draws of the data.")] = 3,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells measured at once; default: one for each core, 2 at most.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each; more gain nothing here.")] = 1,
) -> None:
    """Show on the embedded miniature, in minutes, that fine-tuning breaks safety and that selection keeps it."""
    if output.dry_run:
        say(output, {"would_write": str(out)}, f"would compare 6 methods on {seeds} draws of the miniature, into {out}")
        return
    from sotune.comparison.compare import FIGURES
    from sotune.demo import demo_settings, run_demo

    workers = workers or min(2, os.cpu_count() or 1)
    with monitored(output) as monitor:
        summary = run_demo(out, demo_settings(seeds=seeds, workers=workers, threads=threads), monitor)
    if output.as_json:
        print_json(dataclasses.asdict(summary))
        return
    title = f"mean of {seeds} seeds, {summary.seconds:.0f} s"
    print_figures(output, title, summary.means, FIGURES, [summary.results, summary.report])
