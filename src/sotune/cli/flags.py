"""Settings as flags: each field of a settings group becomes one, under its own name and with its own help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from sotune import processes
from sotune.cli.console import Output, errors_told
from sotune.errors import ConfigError
from sotune.settings import Bytes, Temperature

_OUTPUT_PARAMETERS = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output instead.")],
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")],
    "log_file": Annotated[
        Path | None, typer.Option("--log-file", help="Add progress, warnings and errors to this file, line by line.")
    ],
    "log_every": Annotated[
        float,
        typer.Option("--log-every", min=0, help="Seconds between lines of progress, there and without a terminal."),
    ],
}
_OUTPUT_DEFAULTS = {"log_file": None, "log_every": 30.0}


def _optional(annotation: Any) -> Any:
    """Returns the command-line type of a setting: its own or None; a tuple or mapping becomes a repeatable list."""
    if annotation in (tuple[str, ...], dict[str, Any]):
        return list[str] | None
    if annotation in (int | Literal["auto"], Bytes | None, Temperature | None):
        return str | None  # the setting itself reads a number, a word or a size
    return annotation | None


def _entries(name: str, given: Iterable[str]) -> dict[str, Any]:
    """Reads entries NAME=VALUE, each value as YAML reads it."""
    import yaml

    entries = {}
    for entry in given:
        key, mark, value = entry.partition("=")
        if not (key.strip() and mark):
            raise ConfigError(f"{name} must be like NAME=VALUE. Got {entry!r}")
        entries[key.strip()] = yaml.safe_load(value)
    return entries


def _flag(name: str, field: FieldInfo, *, panel: str, alias: str | None) -> Any:
    """Returns the option of a setting; its own default is "not given", so that YAML and presets can be told apart."""
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    if field.annotation == dict[str, Any]:
        flag = flag.removesuffix("s")  # one flag for each entry
    text, default = escape(str(field.description)), field.default
    if not (field.is_required() or default in (None, (), {})):
        text = f"{text} Default: {', '.join(default) if isinstance(default, tuple) else default}."
    return typer.Option(*filter(None, (flag, alias)), help=text, show_default=False, rich_help_panel=panel)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CONFIG = _keyword(
    "config",
    Annotated[
        Path | None, typer.Option("--config", help="YAML file with settings; flags override it.", show_default=False)
    ],
    None,
)


def with_settings(
    *groups: type[BaseModel],
    leave_out: Iterable[type[BaseModel]] = (),
    arguments: Iterable[str] = (),
    config_file: bool = True,
    aliases: Mapping[str, str] | None = None,
    shared: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for each setting of some groups, under the setting's own name.

    ``leave_out`` names groups whose settings a group shares but the command may not change. ``aliases`` gives a setting
    a second flag, where no other setting of the command has that name. ``shared`` says that processes which are
    launched together share its work; else the first of them does it.

    The command is called as ``command(given, output, **rest)``: ``given`` holds only what the user typed, and the
    file of settings, if any, as ``config``.
    """
    fixed = {name for group in leave_out for name in group.model_fields}
    fields: dict[str, FieldInfo] = {}
    options: dict[str, inspect.Parameter] = {}
    for group in groups:
        panel = str(group.__doc__).partition(":")[0]
        for name, field in group.model_fields.items():
            if name in fixed or name in fields:
                continue
            fields[name] = field
            if name in arguments:
                option: Any = typer.Argument(help=escape(str(field.description)), show_default=False)
            else:
                option = _flag(name, field, panel=panel, alias=(aliases or {}).get(name))
            options[name] = _keyword(name, Annotated[_optional(field.annotation), option], None)
    output_options = [
        _keyword(name, kind, default=_OUTPUT_DEFAULTS.get(name, False)) for name, kind in _OUTPUT_PARAMETERS.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter for parameter in declared if parameter.name not in ("given", "output")]

        def wrapper(**values: Any) -> None:
            output = Output(*(values.pop(name) for name in _OUTPUT_PARAMETERS))
            path = values.pop("config", None) if config_file else None
            given = {n: values.pop(n) for n in fields}
            typed = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if v not in (None, [])}
            if not (shared and not output.dry_run or processes.is_main()):
                return
            with errors_told(output), processes.joined() if shared and not output.dry_run else processes.alone():
                output.check_log()
                typed |= {n: _entries(n, typed[n]) for n in typed if fields[n].annotation == dict[str, Any]}
                command(given={**typed, "config": path} if path else typed, output=output, **values)

        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        parameters = [*own, *options.values(), *([_CONFIG] if config_file else []), *output_options]
        ordered = sorted(parameters, key=lambda p: p.kind is inspect.Parameter.KEYWORD_ONLY)
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in ordered]
        )
        return wrapper

    return decorate
