"""The commands for those who begin: a first configuration, its schema, and what a run would need."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sotune import api
from sotune.api.watching import printable
from sotune.cli.commands import app
from sotune.cli.console import Output, grid_table
from sotune.cli.flags import with_settings
from sotune.errors import ConfigError, SotuneError
from sotune.settings import InitSettings, run_schema
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.api.beginning import Beginning
    from sotune.pipeline.anchor_proposals import Proposal

_SHOWN = 600


@app.command()
@with_settings(InitSettings, arguments=["data"], config_file=False)
def init(given: Mapping[str, Any], output: Output) -> None:
    """Begin: look at DATA, build an anchor with you, name references and their licences, and write a commented YAML.

    Asks for what no flag says; without a terminal, flags must say it all. Shows the texts of rows that it proposes.
    """
    from sotune.api.beginning import Beginning

    settings = InitSettings.of(given)
    if output.dry_run:
        output.say({"would_write": settings.out}, f"would look at {settings.data} and write {settings.out}")
        return
    with output.monitored() as monitor:
        beginning = Beginning(settings, monitor=monitor)
    asks = sys.stdin.isatty() and not (output.quiet or output.as_json)
    if not output.as_json:
        output.say(None, "\n".join(beginning.found()))
    settled = {**_references(settings, output, asks), **_model(settings, asks)}
    anchor = _anchor(beginning, output, asks)
    files = beginning.write({"safe_anchor": anchor, **settled})
    given_next = f"next: sotune doctor {settings.out}, then sotune run {settings.out}"
    output.show({"found": beginning.found(), "files": files, **settled}, given_next, files=files)


def _references(settings: InitSettings, output: Output, asks: bool) -> dict[str, str]:
    named = {name: getattr(settings, name) for name in ("references", "harmful_reference", "safe_reference")}
    settled = {name: value for name, value in named.items() if value is not None}
    if "references" in settled or "harmful_reference" in settled:
        return settled
    offers = api.list_references()
    if not asks:
        known = "; ".join(f"{one.name} ({one.licence}{', ' + one.note if one.note else ''})" for one in offers)
        raise ConfigError(f"name harmful rows with --harmful-reference, or both sides with --references: {known}")
    rows = {one.name: [one.title, one.licence, " and ".join(one.sides), one.note] for one in offers}
    output.show(None, grid_table("public references", ("what", "licence", "sides", ""), rows), files=())
    answer = typer.prompt("harmful rows: a file of yours, or one of these names").strip()
    both = [one.name for one in offers if one.sides == ("harmful", "safe")]
    return {**settled, "references" if answer in both else "harmful_reference": answer}


def _model(settings: InitSettings, asks: bool) -> dict[str, str]:
    settled = {name: value for name in ("model", "encoder") if (value := getattr(settings, name)) is not None}
    if settled:
        return settled
    if not asks:
        raise ConfigError("name the model to fine-tune with --model, or an encoder that only weighs with --encoder")
    return {"model": typer.prompt("model that will be fine-tuned: a folder or a Hub id").strip()}


def _anchor(beginning: Beginning, output: Output, asks: bool) -> str:
    settings = beginning.settings
    if settings.safe_anchor is not None:
        return settings.safe_anchor
    if settings.accept is None and not asks:
        raise ConfigError(
            "name trusted rows with --safe-anchor, or look at what `sotune init DATA --accept none` proposes and "
            "accept rows of it with --accept 1,3-9"
        )
    proposals = beginning.propose()
    _show(proposals, output)
    if settings.accept == "none":
        raise ConfigError(f"{counted(len(proposals), 'row')} proposed above; accept some with --accept 1,3-9")
    if settings.accept is not None:
        accepted = api.read_places(settings.accept, len(proposals))
    else:
        question = f"which are good examples of your task, and safe? like 1,3-9, of {len(proposals)}, or all"
        accepted = typer.prompt(question, value_proc=functools.partial(_read_places, n=len(proposals)))
    return str(beginning.accept(proposals, accepted))


def _read_places(said: str, n: int) -> set[int]:
    """Reads an answer; has the user asked again for one that is none."""
    try:
        return api.read_places(said, n)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def _show(proposals: Sequence[Proposal], output: Output) -> None:
    lines = []
    for place, one in enumerate(proposals, 1):
        like = f"; its words are {one.like_harm:.0%} like a harmful row's" if one.like_harm else ""
        lines.append(f"[{place}] {one.record.id}, nearest to {counted(one.stands_for, 'row')}{like}")
        for message in one.record.messages:
            text = message.text if len(message.text) <= _SHOWN else f"{message.text[:_SHOWN]} …"
            lines.append(f"    {message.role}: " + printable(text).replace("\n", "\n    "))
    if output.as_json:
        return
    output.say(None, "\n".join(lines))


@app.command()
@with_settings(config_file=False)
def schema(
    given: Mapping[str, Any],
    output: Output,
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.", show_default=False)] = None,
) -> None:
    """Print the JSON schema of a run's settings, by which editors complete and check a YAML file."""
    from sotune.artifacts import write_json

    if out is None or output.dry_run:
        Output(quiet=False, as_json=True, dry_run=False).say(run_schema(), "")
        return
    write_json(out, run_schema())
    output.show({"files": [str(out)]}, files=[str(out)])


@app.command()
@with_settings(config_file=False)
def doctor(
    given: Mapping[str, Any],
    output: Output,
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings of a run.")] = None,
) -> None:
    """Look at the machine and at what a run of CONFIG would need, before anything long. Loads no model's weights.

    Status 1 if something would stop the run.
    """
    if output.dry_run:
        output.say({"would_examine": str(config) if config else None}, f"would look at this machine and {config}")
        return
    with output.monitored() as monitor:
        found = api.examine(None if config is None else str(config), monitor=monitor)
    rows = {check.name: [check.status, check.told] for check in found.checks}
    output.show(found, grid_table("sotune doctor", ("", "found"), rows), files=())
    if found.faults:
        raise SotuneError(f"{counted(len(found.faults), 'thing')} would stop the run: {'; '.join(found.faults)}")
