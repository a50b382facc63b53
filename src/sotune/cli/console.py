"""How commands speak: progress on standard error, results on standard output, errors without tracebacks."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from sotune.api.watching import ConsoleMonitor, escaped
from sotune.errors import SotuneError
from sotune.monitoring import Monitor, Silent


@dataclasses.dataclass(frozen=True)
class Output:
    """How a command speaks."""

    quiet: bool
    as_json: bool
    dry_run: bool


class monitored:  # noqa: N801 - used like a function
    """A console monitor, or a silent one where the user wants silence."""

    def __init__(self, output: Output) -> None:
        quiet = output.quiet or output.as_json
        self._monitor = None if quiet else ConsoleMonitor(Console(stderr=True))

    def __enter__(self) -> Monitor:
        return self._monitor.__enter__() if self._monitor else Silent()

    def __exit__(self, *details: object) -> None:
        if self._monitor:
            self._monitor.__exit__(*details)


class errors_told:  # noqa: N801 - used like a function
    """Prints our own errors without a traceback and leaves with their exit status."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, SotuneError):
            if self._output.as_json:
                print_json({"error": type(error).__name__, "message": str(error)})
            Console(stderr=True).print(f"[red]error:[/red] {escaped(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_status)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            message = f"{error.filename or 'a file'}: {error.strerror or error}"
            Console(stderr=True).print(f"[red]error:[/red] {escaped(message)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1)


def print_table(output: Output, title: str, figures: Mapping[str, str], files: Iterable[str]) -> None:
    """Prints figures as a short table, and the files that were written."""
    if output.quiet:
        return
    console = Console()
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in figures.items():
        table.add_row(escaped(name), escaped(value))
    console.print(table)
    for file in files:
        console.print(f"wrote {escaped(file)}", highlight=False, soft_wrap=True)


def print_figures(
    output: Output,
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    columns: Iterable[str],
    files: Iterable[str],
) -> None:
    """Prints figures by name as a table, and the files that were written."""
    if output.quiet:
        return
    console = Console()
    table = Table("", *(name.replace("_", " ") for name in columns), title=title, title_justify="left")
    for name, figures in rows.items():
        table.add_row(escaped(name), *(f"{figures[column]:.3f}" for column in columns))
    console.print(table)
    for file in files:
        console.print(f"wrote {escaped(file)}", highlight=False, soft_wrap=True)


def say(output: Output, value: Any, text: str) -> None:
    """Prints ``value`` as JSON or ``text`` as it is, whichever the user asked for."""
    if output.as_json:
        print_json(value)
    elif not output.quiet:
        Console().print(escaped(text), highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints one JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
