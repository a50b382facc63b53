"""A method as one comparison uses it: from the registry, with what an experiment changes about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from sotune.errors import ConfigError
from sotune.selection import LOSS_WEIGHT_RULES
from sotune.settings import PRESETS, nearest_setting

if TYPE_CHECKING:
    from sotune.methods import Method

BASE = "base"
"""The model before any fine-tuning; not a method, but measured beside them."""

_RULE = "loss_weight_rule"


@dataclass(frozen=True)
class References:
    """Which references a variant weighs with; ``None`` leaves what all others have.

    Attributes:
        anchor: The safe anchor's source, ``general`` for the miniature's rows of no task.
        n_anchor: Its rows.
        reference: The harmful reference's source, or the miniature's kinds of harm.
        n_reference: Its rows.
    """

    anchor: str | None = None
    n_anchor: int | None = None
    reference: str | tuple[str, ...] | None = None
    n_reference: int | None = None


@dataclass(frozen=True)
class Variant:
    """One column of a comparison.

    Attributes:
        name: What results call it; no two of a comparison share one.
        method: Its name in the registry, ``base``, or a combination like ``sot + safeinstr``.
        changes: Keyword arguments of the method's ``weigh`` and ``keep``, and ``loss_weight_rule``.
        keep_fraction: K as a share of the rows; ``None`` for that of all others.
        layer: Layer of the representations; ``None`` likewise.
        references: What it weighs with.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    keep_fraction: float | None = None
    layer: int | None = None
    references: References = field(default_factory=References)

    @classmethod
    def plain(cls, method: str) -> Variant:
        """Returns a method as it is."""
        return cls(method, method)


def find_method(name: str) -> Method:
    """Returns a method or a combination by name; for ``base`` plain fine-tuning, which it is before any step.

    Raises:
        ConfigError: There is none.
    """
    from sotune.methods import METHODS, method_named

    return METHODS["sft"] if name == BASE else method_named(name)


def change_method(method: Method, changes: Mapping[str, Any]) -> Method:
    """Returns a method with some of its settings changed.

    Raises:
        ConfigError: The method has no such setting.
    """
    rule = changes.get(_RULE, method.loss_weight_rule)
    if rule not in LOSS_WEIGHT_RULES:
        raise ConfigError(f"{_RULE} must be one of {', '.join(LOSS_WEIGHT_RULES)}. Got {rule!r}")
    arguments = {name: value for name, value in changes.items() if name != _RULE}
    known = changeable(method)
    for name in arguments:
        if name not in known:
            near = nearest_setting(name, dict.fromkeys([*known, _RULE]))
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join([*known, _RULE])}"
            raise ConfigError(f"unknown setting {name!r} of a method; {hint}")
    if not arguments and rule == method.loss_weight_rule:
        return method
    return replace(
        method,
        weigh=_with(method.weigh, arguments),
        keep=None if method.keep is None else _with(method.keep, arguments),
        loss_weight_rule=rule,
    )


def changeable(method: Method) -> list[str]:
    """Returns the keyword arguments that a method's ``weigh`` and ``keep`` take besides their inputs."""
    of_keep = [] if method.keep is None else _keyword_arguments(method.keep)
    return list(dict.fromkeys([*_keyword_arguments(method.weigh), *of_keep]))


def _with(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Binds those of the arguments that a function takes."""
    own = {name: arguments[name] for name in _keyword_arguments(function) if name in arguments}
    return partial(function, **own) if own else function


def _keyword_arguments(function: Callable[..., Any]) -> list[str]:
    while isinstance(function, partial):  # which has no annotations of its own
        function = function.func
    hints = get_type_hints(function)
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            (typed,) = get_args(hints[parameter.name])
            names += list(typed.__annotations__)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    return names


def preset_changes(method: Method, preset: str) -> dict[str, Any]:
    """Returns what a preset of `sotune.settings` says about a method.

    Raises:
        ConfigError: There is no such preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}. Got {preset!r}")
    known = (*changeable(method), _RULE)
    return {name: value for name, value in PRESETS[preset].items() if name in known}
