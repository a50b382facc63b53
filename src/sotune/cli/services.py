"""The command that serves a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune.cli.commands import app
from sotune.cli.console import Output
from sotune.cli.flags import with_settings
from sotune.settings import ServeSettings
from sotune.stopping import Stopped


@app.command()
@with_settings(ServeSettings, config_file=False)
def serve(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose rows are selected.")],
) -> None:
    """Weigh new rows over HTTP with RUN, loaded once: POST /score, GET /health, GET /metrics. Needs the extra serve."""
    from sotune.serving.server import find_token, prepare

    settings = ServeSettings.of(given)
    token = find_token(settings)
    if output.dry_run:
        asks = "asks for the token" if token else "asks for no token"
        output.say(settings.model_dump(), f"would serve {run} on {settings.host}:{settings.port}, which {asks}")
        return

    service = prepare(run, settings)
    output.log(f"serving {run} at {service.address}")
    output.say({"address": service.address, "run": str(run)}, f"serving {run} at {service.address}; Ctrl-C ends it")
    sys.stdout.flush()
    try:
        service.run()
    except Stopped:
        output.say({"stopped": str(run)}, "stopped; every job that was taken has been answered")
