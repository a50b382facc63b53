"""How commands speak: progress on standard error, results on standard output, errors without tracebacks."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sotune import processes
from sotune.api.watching import Both, ConsoleMonitor, LineMonitor, plain_text
from sotune.errors import ConfigError, GateError, SotuneError
from sotune.monitoring import Monitor, Silent
from sotune.stopping import Stopped

if TYPE_CHECKING:
    from sotune.reporting import Finding


_MOST_LINES = 6
"""So many written files have a line each."""


@dataclass(frozen=True)
class Output:
    """How a command speaks."""

    quiet: bool
    as_json: bool
    dry_run: bool
    log_file: Path | None = None
    log_every: float = 30.0

    @contextlib.contextmanager
    def monitored(self) -> Iterator[Monitor]:
        """Yields a monitor: bars in a terminal, lines elsewhere, silence where the user wants it; and the log's."""
        with self._shown() as shown:
            if self.log_file is None or not processes.is_main():
                yield shown
            else:
                yield Both(shown, LineMonitor(self.log, every=self.log_every))

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Monitor]:
        console = Console(stderr=True)
        if self.quiet or self.as_json or not processes.is_main():
            yield Silent()
        elif console.is_terminal:
            with ConsoleMonitor(console) as monitor:
                yield monitor
        else:
            yield LineMonitor(lambda line: print(line, file=sys.stderr, flush=True), every=self.log_every)  # noqa: T201

    def log(self, line: str) -> None:
        """Adds a line to the log file, if there is one; a full disk there does not end the work."""
        if self.log_file is not None:
            with contextlib.suppress(OSError), self.log_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def check_log(self) -> None:
        """Checks that lines can be added to the log file.

        Raises:
            ConfigError: They cannot.
        """
        if self.log_file is None:
            return
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            self.log_file.open("a").close()
        except OSError as error:
            raise ConfigError(f"{self.log_file} cannot be written ({error.strerror}); name another log_file") from None

    def say(self, value: Any, text: str) -> None:
        """Prints ``value`` as JSON or ``text`` as it is, whichever the user asked for."""
        self.show(value, text, files=())

    def show(self, value: Any, *parts: RenderableType, files: Iterable[str]) -> None:
        """Prints a value as JSON, or else some tables, lines of text, and the files that were written."""
        if not processes.is_main():
            return
        if self.as_json:
            shown = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=True) + "\n")  # no character steers a terminal
        elif not self.quiet:
            console = Console()
            for part in (*parts, *_written(files)):
                shown = plain_text(part) if isinstance(part, str) else part
                console.print(shown, highlight=False, soft_wrap=isinstance(part, str | Text))


def _written(files: Iterable[str]) -> list[str]:
    """Returns lines that name the files: each its own, or of many a line a folder."""
    listed = list(files)
    if len(listed) <= _MOST_LINES:
        return [f"wrote {file}" for file in listed]
    folders: dict[Path, list[str]] = {}
    for file in map(Path, listed):
        folders.setdefault(file.parent, []).append(file.name)
    return [f"wrote in {folder}: {', '.join(names)}" for folder, names in folders.items()]


@contextlib.contextmanager
def errors_told(output: Output) -> Iterator[None]:
    """Prints our own errors without a traceback and leaves with their exit status; so it does when it is stopped."""
    try:
        yield
    except Stopped as stopped:
        again = shlex.join(["sotune", *sys.argv[1:]])
        message = f"{stopped}; what had finished before is safe. To go on, give the same command again: {again}"
        if output.as_json:
            output.say({"error": "Stopped", "message": message}, "")
        raise _told(output, message, stopped.exit_status) from None
    except SotuneError as error:
        if output.as_json and not isinstance(error, GateError):  # which was told as the command's own result
            output.say({"error": type(error).__name__, "message": str(error)}, "")
        raise _told(output, str(error), error.exit_status) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _told(output, f"{error.filename or 'a file'}: {error.strerror or error}", 1) from None


def _told(output: Output, message: str, exit_status: int) -> typer.Exit:
    LineMonitor(output.log).error(message)
    Console(stderr=True).print(Text.assemble(("error:", "red"), " ", plain_text(message)), soft_wrap=True)
    return typer.Exit(exit_status)


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """Returns what was found, each a line of its own; what is amiss in red."""
    styles = {True: "bold red", False: "bold"}
    return [plain_text(one.sentence, styles[one.alarm]) for one in findings]


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
