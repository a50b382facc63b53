"""The command that says what a run would take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune import api
from sotune.cli.commands import app
from sotune.cli.console import Output, figure_table, grid_table
from sotune.cli.flags import with_settings
from sotune.settings import ALL_SETTINGS


@app.command()
@with_settings(*ALL_SETTINGS, config_file=False)
def estimate(
    given: Mapping[str, Any],
    output: Output,
    config: Annotated[Path, typer.Argument(help="YAML file with settings of a run; flags override it.")],
    gpu: Annotated[
        str | None, typer.Option(help="h100, a100, l40s, rtx4090, … Default: measure this machine.", show_default=False)
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many of them work together.")] = 1,
) -> None:
    """Say what a run of CONFIG would take: time, memory, disk, judge's cost. Reads samples, and starts nothing."""
    from sotune.pipeline.estimating import describe_evaluation, describe_needs

    if output.dry_run:
        output.say({"would_estimate": str(config)}, f"would read samples of the data of {config}")
        return
    with output.monitored() as monitor:
        found = api.estimate(config=config, gpu=gpu, devices=devices, monitor=monitor, **given)
    needs = found.needs
    rows = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in found.n_rows.items())
    figures = {
        "rows": rows,
        "tokens": f"{found.work.mean_tokens:.0f} a row, the longest of the sample {found.work.longest:,}",
        "device": f"{needs.n_devices} × {needs.device.name} ({needs.device.source})",
    }
    if evaluation := describe_evaluation(found):
        figures["evaluation"] = evaluation
    figures |= {f"warning {number}": text for number, text in enumerate(needs.warnings, start=1)}
    shown = {**asdict(found), "seconds": needs.seconds, "warnings": needs.warnings}
    needed = describe_needs(found)
    columns = [name if name == "time" else f"GiB {name}" for name in needed["all"]]
    stages = grid_table("", columns, {stage: [*row.values()] for stage, row in needed.items()})
    output.show(shown, figure_table("sotune estimate", figures), stages, files=())
