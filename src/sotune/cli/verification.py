"""The command that checks what others left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune import api
from sotune.cli.commands import app
from sotune.cli.console import Output, figure_table
from sotune.cli.flags import with_settings
from sotune.errors import ArtifactError
from sotune.wording import counted


@app.command()
@with_settings(config_file=False)
def verify(
    given: Mapping[str, Any], output: Output, run: Annotated[Path, typer.Argument(help="Run or comparison folder.")]
) -> None:
    """Check every file of RUN against what was written: digests, manifests, and what was made from what."""
    if output.dry_run:
        output.say({"would_verify": str(run)}, f"would verify {run}")
        return
    found = api.verify(run)
    figures = {"files as they were written": f"{found.n_checked:,}", "faults": f"{len(found.faults):,}"}
    if found.unlisted:
        figures["in no manifest"] = ", ".join(found.unlisted)
    output.show(found, figure_table(f"sotune verify {run}", {**figures, **found.faults}), files=())
    if found.faults and output.as_json:
        raise typer.Exit(ArtifactError.exit_status)
    if found.faults:
        raise ArtifactError(
            f"{counted(len(found.faults), 'file')} of {run} not as written, or made from what is no more, "
            f"{min(found.faults)} among them; restore them, or run the commands that wrote them again"
        )
