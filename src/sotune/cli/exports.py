"""The commands that hand a run's results to other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sotune import api
from sotune.cli.commands import app
from sotune.cli.console import Output, figure_table
from sotune.cli.flags import with_settings
from sotune.settings import ExportSettings
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.pipeline import HandedOn


@app.command()
@with_settings(ExportSettings, config_file=False)
def export(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
) -> None:
    """Write the kept rows of RUN in the shape of another tool; nothing leaves the machine without --yes."""
    with output.monitored() as monitor:
        done = api.open_run(run).export(dry_run=output.dry_run, monitor=monitor, **given)
    files = () if output.dry_run else done.exported.files
    output.show(done, *_told(done, dry_run=output.dry_run), files=files)


def _told(done: HandedOn, *, dry_run: bool) -> Iterator[Any]:
    """Yields what is printed of an export: first what became of the weights."""
    one = done.exported
    yield f"weights: {one.weights}"
    figures = {"rows": f"{one.n_written:,} from {one.n_kept:,} kept", "folder": one.folder}
    figures |= {f"left out: {reason}": counted(n, "row") for reason, n in one.left_out.items()}
    if one.n_other_masks:
        figures["other turns learned there than here"] = counted(one.n_other_masks, "row")
    for upload in done.uploads:
        size = sum(upload.files.values()) / 1e6
        seen = "private" if upload.private else "public"
        files = (
            f"{counted(len(upload.files), 'file')}, {size:.1f} MB: {', '.join(upload.files)}; " if upload.files else ""
        )
        figures[f"{'sent' if done.sent else 'would send'}: {upload.kind} {upload.repository}"] = (
            f"{files}{seen} if it is new"
        )
    yield figure_table("would export" if dry_run else "sotune export", figures)
    if done.uploads and not done.sent:
        yield "nothing was sent; look at the folder, then add --yes"
    yield from (f"sent {address}" for address in done.sent)


@app.command()
@with_settings(config_file=False)
def merge(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose adapter is trained.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="RUN/merged")] = None,
) -> None:
    """Write the model of RUN with its adapter merged into it: safetensors, tokenizer, card."""
    opened = api.open_run(run)
    if output.dry_run:
        output.say({"would_write": str(out or opened.path / "merged")}, f"would merge the adapter of {run}")
        return
    with output.monitored() as monitor:
        merged = opened.merge(out=out, monitor=monitor)
    output.show(
        merged, figure_table("sotune merge", {"model": merged.folder, "dtype": merged.dtype}), files=merged.files
    )
