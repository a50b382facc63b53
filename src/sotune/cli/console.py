"""How commands speak: progress on standard error, results on standard output, errors without tracebacks."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sotune.api.watching import ConsoleMonitor, plain_text
from sotune.errors import SotuneError
from sotune.monitoring import Monitor, Silent


@dataclass(frozen=True)
class Output:
    """How a command speaks."""

    quiet: bool
    as_json: bool
    dry_run: bool

    @contextlib.contextmanager
    def monitored(self) -> Iterator[Monitor]:
        """Yields a console monitor, or a silent one where the user wants silence."""
        if self.quiet or self.as_json:
            yield Silent()
        else:
            with ConsoleMonitor(Console(stderr=True)) as monitor:
                yield monitor

    def say(self, value: Any, text: str) -> None:
        """Prints ``value`` as JSON or ``text`` as it is, whichever the user asked for."""
        self.show(value, text, files=())

    def show(self, value: Any, *parts: RenderableType, files: Iterable[str]) -> None:
        """Prints a value as JSON, or else some tables, lines of text, and the files that were written."""
        if self.as_json:
            shown = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=True) + "\n")  # no character steers a terminal
        elif not self.quiet:
            console = Console()
            for part in (*parts, *(f"wrote {file}" for file in files)):
                shown = plain_text(part) if isinstance(part, str) else part
                console.print(shown, highlight=False, soft_wrap=isinstance(part, str | Text))


@contextlib.contextmanager
def errors_told(output: Output) -> Iterator[None]:
    """Prints our own errors without a traceback and leaves with their exit status."""
    try:
        yield
    except SotuneError as error:
        if output.as_json:
            output.say({"error": type(error).__name__, "message": str(error)}, "")
        raise _told(str(error), error.exit_status) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _told(f"{error.filename or 'a file'}: {error.strerror or error}", 1) from None


def _told(message: str, exit_status: int) -> typer.Exit:
    Console(stderr=True).print(Text.assemble(("error:", "red"), " ", plain_text(message)), soft_wrap=True)
    return typer.Exit(exit_status)


def figure_table(title: str, figures: Mapping[str, str]) -> Group:
    """Returns figures as a short table under its title."""
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(plain_text(name), plain_text(value))
    return _titled(title, table)


def grid_table(title: str, columns: Iterable[str], rows: Mapping[str, Iterable[str]]) -> Group:
    """Returns rows of figures by name, under the names of their columns."""
    table = Table("", *(Column(plain_text(name)) for name in columns))
    for name, values in rows.items():
        table.add_row(plain_text(name), *map(plain_text, values))
    return _titled(title, table)


def _titled(title: str, table: Table) -> Group:
    return Group(plain_text(title, "italic"), table)  # a table's own title breaks at the table's width


def means_table(title: str, means: Mapping[str, Mapping[str, float]]) -> Group:
    """Returns the figures of methods that all of them have."""
    names = dict.fromkeys(name for figures in means.values() for name in figures)
    measured = [name for name in names if all(name in figures for figures in means.values())]
    columns = [name.replace("_", " ") for name in measured]
    return grid_table(title, columns, {m: [f"{own[name]:.3f}" for name in measured] for m, own in means.items()})
