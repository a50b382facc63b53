"""The commands that keep a disk in order."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sotune import api
from sotune.cli.commands import app
from sotune.cli.console import Output, grid_table
from sotune.cli.flags import with_settings
from sotune.errors import ConfigError

if TYPE_CHECKING:
    from sotune.pipeline.run_folders import FoundRun

_STEPS = ("kB", "MB", "GB", "TB")


@app.command(name="list")
@with_settings(config_file=False)
def list_command(
    given: Mapping[str, Any],
    output: Output,
    folder: Annotated[Path, typer.Argument(help="Folder that runs lie in.")] = Path(),
) -> None:
    """List the runs below FOLDER: how far each is, what it keeps, what is stale, and what it takes up."""
    found = api.list_runs(folder)
    rows = {os.path.relpath(one.folder, folder): _cells(one) for one in found}
    columns = ("method", "kept", "done", "stale", "size", "changed")
    if found:
        output.show([asdict(one) for one in found], grid_table(f"runs in {folder}", columns, rows), files=())
    else:
        output.say([], f"there are no runs in {folder}")


def _cells(one: FoundRun) -> list[str]:
    done = one.fault or (one.done[-1] if one.done else "")
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed))
    return [one.method or f"({one.kind})", one.kept, done, ", ".join(one.stale), show_bytes(one.n_bytes), changed]


@app.command()
@with_settings(config_file=False)
def clean(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path | None, typer.Argument(help="Run folder.")] = None,
    representations: Annotated[
        bool, typer.Option("--representations", help="The vectors of its rows too: the next verb encodes all again.")
    ] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Those of an unfinished training too: it starts over.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache", help="The representations that all runs share, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what of RUN is not needed: leftovers, and what is stale. Says what it frees and costs, and asks first."""
    if run is None and not cache:
        raise ConfigError("name a run folder, or --cache for what all runs share")
    found = [] if run is None else api.find_removable(run, representations=representations, checkpoints=checkpoints)
    found += api.find_cached() if cache else []
    total = show_bytes(sum(one.n_bytes for one in found))
    if not found:
        output.say([], "nothing that could be deleted")
        return
    rows = {one.name: [show_bytes(one.n_bytes), one.costs] for one in found}
    shown = {"removable": [asdict(one) for one in found], "freed": 0}
    if output.dry_run or not (yes or _agreed(output, rows, total)):
        output.show(shown, grid_table(f"may be deleted: {total}", ("frees", "costs"), rows), files=())
        return
    freed = api.remove(run or Path(), found)
    output.say({**shown, "freed": freed}, f"deleted {', '.join(rows)}: {show_bytes(freed)}")


def _agreed(output: Output, rows: Mapping[str, list[str]], total: str) -> bool:
    if output.quiet or output.as_json or not sys.stdin.isatty():
        raise ConfigError("nothing is deleted without a yes; add --yes, or --dry-run to see what would be")
    output.show(None, grid_table(f"may be deleted: {total}", ("frees", "costs"), rows), files=())
    return typer.confirm(f"delete these, {total}?")


def show_bytes(n: float) -> str:
    """Returns a size as people read it, ``12.3 MB``."""
    power = min(len(_STEPS), int(math.log(n, 1000))) if n >= 1000 else 0
    return f"{n:.0f} B" if power == 0 else f"{n / 1000**power:.1f} {_STEPS[power - 1]}"
