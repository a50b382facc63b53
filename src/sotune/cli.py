"""The command line: flags are the settings of `sotune.config`, under the same names."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from sotune.config import (
    DataSettings,
    RepresentationSettings,
    RunConfig,
    RunSettings,
    SelectionSettings,
    WeightSettings,
    make_config,
    read_config,
)
from sotune.errors import SotuneError

app = typer.Typer(
    name="sotune",
    help="Keep an aligned LLM safe while it is fine-tuned: weigh the data by push-pull optimal transport.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclasses.dataclass(frozen=True)
class Output:
    """How a command speaks."""

    quiet: bool
    as_json: bool
    dry_run: bool


class ConsoleMonitor:
    """Draws progress on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ConsoleMonitor:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def stage(self, name: str, status: str) -> None:
        """Says that a stage begins, or that it is up to date."""
        self._clear()
        mark = "[dim]is up to date[/dim]" if status == "skipped" else "…"
        self._console.print(f"[bold]{name}[/bold] {mark}", highlight=False)

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Moves the bar of one piece of work."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total)
        self._progress.update(self._tasks[label], completed=done, total=total)

    def warn(self, message: str) -> None:
        """Prints a warning."""
        self._console.print(f"[yellow]warning:[/yellow] {escaped(message)}", highlight=False)

    def _clear(self) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


def escaped(text: str) -> str:
    """Makes text safe to print: no markup of ours, no control characters that could steer a terminal."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


_OUTPUT_PARAMETERS = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output instead.")],
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and touch nothing.")],
}


def with_settings(
    *groups: type[BaseModel], arguments: Iterable[str] = (), config_file: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for each setting of some groups, under the setting's own name.

    The command is called as ``command(given, output, **rest)``: ``given`` holds only what the user typed.
    """
    fields = {name: field for group in groups for name, field in group.model_fields.items()}
    positional = set(arguments)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name not in ("given", "output")]
        parameters = list(own)
        for name, field in fields.items():
            kind = _optional(field.annotation)
            flag = f"--{name.replace('_', '-')}"
            if name in positional:
                option: Any = typer.Argument(help=field.description, show_default=False)
            else:
                shown = False if field.is_required() or field.default in (None, ()) else str(field.default)
                panel = next(g.__doc__ for g in groups if name in g.model_fields)
                title = str(panel).splitlines()[0].rstrip(".")
                if field.annotation is bool:
                    flag = f"{flag}/--no-{name.replace('_', '-')}"
                option = typer.Option(flag, help=field.description, show_default=shown, rich_help_panel=title)
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
                )
            )
        if config_file:
            option = typer.Option("--config", help="YAML file with settings; flags override it.", show_default=False)
            parameters.append(_keyword("config", Annotated[Path | None, option], None))
        parameters += [_keyword(name, kind, default=False) for name, kind in _OUTPUT_PARAMETERS.items()]

        def wrapper(**values: Any) -> None:
            output = Output(*(values.pop(name) for name in _OUTPUT_PARAMETERS))
            path = values.pop("config", None)
            given = {n: values.pop(n) for n in fields}
            typed = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if v not in (None, [])}
            with _errors_told(output):
                command(given={**(read_config(path) if path else {}), **typed}, output=output, **values)

        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        ordered = sorted(parameters, key=lambda p: p.kind is inspect.Parameter.KEYWORD_ONLY)
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in ordered]
        )
        return wrapper

    return decorate


@app.command()
@with_settings(DataSettings, RepresentationSettings, RunSettings, arguments=["data"])
def extract(given: Mapping[str, Any], output: Output) -> None:
    """Read the three sets and encode them with the frozen model."""
    _run_verb("extract", make_config(given), output)


@app.command()
@with_settings(DataSettings, RepresentationSettings, WeightSettings, SelectionSettings, RunSettings, arguments=["data"])
def weigh(given: Mapping[str, Any], output: Output) -> None:
    """Weigh DATA, keep its best rows, and write a report; does first what is missing."""
    _run_verb("weigh", make_config(given), output)


@app.command()
@with_settings(SelectionSettings, config_file=False)
def select(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
) -> None:
    """Select anew from the weights of RUN, keeping more or fewer rows."""
    from sotune.artifacts import RunFolder
    from sotune.pipeline.scoring import run_config

    _run_verb("select", run_config(RunFolder.open(run), given), output)


@app.command()
@with_settings(config_file=False)
def report(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    show_text: Annotated[bool, typer.Option("--show-text", help="Show row texts, harmful ones too.")] = False,
) -> None:
    """Write the report of RUN again, from its artefacts alone."""
    from sotune.artifacts import RunFolder
    from sotune.pipeline.scoring import run_config

    _run_verb("report", run_config(RunFolder.open(run), {"show_text": show_text}), output)


@app.command()
@with_settings(config_file=False)
def score(
    given: Mapping[str, Any],
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are solved.")],
    data: Annotated[str, typer.Argument(help="New rows: a file, a saved dataset folder, or a Hub id.")],
    where: Annotated[list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE; may be repeated.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Parquet file to write.", show_default="RUN/scores.parquet")
    ] = None,
) -> None:
    """Weigh rows that RUN has never seen with its saved potentials, without solving again."""
    from sotune.pipeline import score as score_rows

    target = scores or run / "scores.parquet"
    if output.dry_run:
        _say(output, {"would_write": str(target)}, f"would score {data} with the potentials of {run}, into {target}")
        return
    with _monitored(output) as monitor:
        summary = score_rows(run, data, out=target, where=tuple(where or ()), monitor=monitor)
    if not output.as_json:
        _print_table(output, "scored", {
            "rows scored": f"{summary.n_scored:,}", "would be kept": f"{summary.n_would_keep:,}",
            "quarantined": f"{summary.n_quarantined:,}",
        }, [summary.file, summary.quarantine])  # fmt: skip
    else:
        _say(output, dataclasses.asdict(summary), "")


@app.command()
def env() -> None:
    """Print the versions that a bug report needs."""
    import platform

    from sotune.artifacts import library_versions

    names = ("sotune", "torch", "transformers", "peft", "datasets", "pyarrow", "safetensors", "numpy")
    _print_json({"python": platform.python_version(), "system": platform.platform(), **library_versions(*names)})


def main() -> None:
    """Runs the command line."""
    app()


def _run_verb(verb: str, config: RunConfig, output: Output) -> None:
    from sotune import pipeline

    if output.dry_run:
        planned = pipeline.plan(verb, config)
        lines = [f"{o.title}: {o.status}" for o in planned.stages]
        _say(output, dataclasses.asdict(planned), f"in {planned.folder}\n" + "\n".join(lines))
        return
    with _monitored(output) as monitor:
        summary = getattr(pipeline, verb)(config, monitor)
    if output.as_json:
        _print_json(dataclasses.asdict(summary))
        return
    figures = {f"{o.title}: {name}": value for o in summary.stages for name, value in o.figures.items()}
    _print_table(output, f"sotune {verb}", figures, summary.files)


class _monitored:  # noqa: N801 - used like a function
    """A console monitor, or none where the user wants silence."""

    def __init__(self, output: Output) -> None:
        quiet = output.quiet or output.as_json
        self._monitor = None if quiet else ConsoleMonitor(Console(stderr=True))

    def __enter__(self) -> ConsoleMonitor | None:
        return self._monitor.__enter__() if self._monitor else None

    def __exit__(self, *details: object) -> None:
        if self._monitor:
            self._monitor.__exit__(*details)


class _errors_told:  # noqa: N801 - used like a function
    """Prints our own errors without a traceback and leaves with their exit status."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, SotuneError):
            if self._output.as_json:
                _print_json({"error": type(error).__name__, "message": str(error)})
            Console(stderr=True).print(f"[red]error:[/red] {escaped(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_status)


def _print_table(output: Output, title: str, figures: Mapping[str, str], files: Iterable[str]) -> None:
    if output.quiet:
        return
    console = Console()
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in figures.items():
        table.add_row(escaped(name), escaped(value))
    console.print(table)
    for file in files:
        console.print(f"wrote {escaped(file)}", highlight=False, soft_wrap=True)


def _say(output: Output, value: Any, text: str) -> None:
    if output.as_json:
        _print_json(value)
    elif not output.quiet:
        Console().print(escaped(text), highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _optional(annotation: Any) -> Any:
    """Returns the command-line type of a setting: its own or None; a tuple becomes a repeatable list."""
    if annotation == tuple[str, ...]:
        return list[str] | None
    return annotation | None


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
