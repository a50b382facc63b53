"""Settings as keywords: each field of a settings class is one, under its own name and with its own help."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sotune.errors import ConfigError
from sotune.settings import nearest_setting

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes(*groups: type[BaseModel], changes: bool = False) -> Callable[[_Function], _Function]:
    """Gives a function's ``**settings`` the names, defaults and help of some settings; any other name is an error.

    Args:
        groups: Settings classes.
        changes: Whether a setting that is left out stays what the run has, in place of its default.
    """
    fields = {name: field for group in groups for name, field in group.model_fields.items()}

    def decorate(function: _Function) -> _Function:
        own = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        added = {name: field for name, field in fields.items() if name not in own}

        @functools.wraps(function)
        def checked(*given: Any, **keywords: Any) -> Any:
            for name in keywords.keys() - own.keys() - added.keys():
                raise ConfigError(_unknown(function.__name__, name, [*own, *added]))
            return function(*given, **keywords)

        parameters = [*own.values(), *(_parameter(name, field, changes=changes) for name, field in added.items())]
        checked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        checked.__doc__ = f"{inspect.getdoc(function)}\n\nSettings:\n" + "".join(
            f"    {name}: {field.description}\n" for name, field in added.items()
        )
        return cast(_Function, checked)

    return decorate


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as YAML would hold them, with paths as text."""
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return plain(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _parameter(name: str, field: FieldInfo, *, changes: bool) -> inspect.Parameter:
    default = ... if changes else inspect.Parameter.empty if field.is_required() else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.annotation)


def _unknown(function: str, name: str, known: list[str]) -> str:
    near = nearest_setting(name, known)
    hint = f"did you mean {near!r}?" if near else f"see help(sotune.{function}) for all settings"
    return f"{function}: unknown setting {name!r}; {hint}"
