"""What all settings share: strictness, one voice for faults, sizes and paths."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from sotune.errors import ConfigError

Part = TypeVar("Part", bound="StageSettings")


class StageSettings(BaseModel):
    """Settings of one stage: frozen, and any key that is not among them is an error.

    Raises:
        ConfigError: Any setting is unknown, missing, of the wrong type or out of range; all faults are named at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    where_listed: ClassVar[str] = "`sotune run --help`"
    """Where all settings can be read up."""

    if not TYPE_CHECKING:  # type checkers read the signature off the fields

        def __init__(self, /, **given: Any) -> None:
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise ConfigError("; ".join(_faults(error, type(self)))) from None

    @classmethod
    def of(cls, given: Mapping[str, Any], *, origin: str = "settings") -> Self:
        """Builds the settings from those given, over the defaults; faults are told with their origin."""
        try:
            return cls(**given)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None

    def replace(self, **changes: Any) -> Self:
        """Returns the same settings with some changed, checked again."""
        return type(self)(**{**self.model_dump(), **changes})

    def part(self, kind: type[Part]) -> Part:
        """Returns those of these settings that another class has; what was not given stays so."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields if name in self.model_fields_set})

    def over(self, defaults: Mapping[str, Any]) -> Self:
        """Returns these settings with other defaults; what was given stays, and names of other stages are ignored."""
        own = {name: value for name, value in defaults.items() if name in type(self).model_fields}
        return self.model_copy(update={n: value for n, value in own.items() if n not in self.model_fields_set})

    @classmethod
    def known(cls) -> Iterable[str]:
        """Returns the names that a misspelt one may have meant."""
        return cls.model_fields

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, given: Any) -> Any:
        """Takes one text for a list of one."""
        if not isinstance(given, Mapping):
            return given
        lists = {name for name, field in cls.model_fields.items() if field.annotation == tuple[str, ...]}
        return {name: (value,) if name in lists and isinstance(value, str) else value for name, value in given.items()}


class TemplateSettings(StageSettings):
    """Template: how a conversation becomes text; one way for weighing, training and evaluation."""

    template: Literal["auto", "paper", "chat"] = Field(
        "auto",
        description="chat: the tokenizer's chat template; paper: 'Human: …; Assistant: …' (paper, §4.1); auto: chat if "
        "the tokenizer has a template, else paper.",
    )
    chat_template: str | None = Field(None, description="Which chat template, by name, if the tokenizer has several.")
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="What the chat template is given besides, NAME=VALUE, such as enable_thinking=false."
    )
    fold_system: bool = Field(
        False, description="Put system turns in front of the next user turn, for chat templates that refuse them."
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_our_own(cls, given: dict[str, Any]) -> dict[str, Any]:
        ours = ("conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message", "chat_template")
        if taken := [name for name in given if name in ours]:
            raise ValueError(f"must not hold {', '.join(taken)}, which is set by what is rendered")
        return given


class RenderingSettings(TemplateSettings):
    """Rendering: how a row becomes text, and how much of it is read."""

    max_length: int = Field(
        2048,
        ge=8,
        description="Token limit of a row, or the model's own if lower; longer rows keep prompt end, completion start.",
    )


class SeedSettings(StageSettings):
    """Seed: what makes a run repeatable."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")


def parse_bytes(text: str) -> int:
    """Reads a size like ``4GB``, ``512 MiB`` or ``1000000``, in bytes.

    Raises:
        ValueError: It is no size, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = 0 if found is None else float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    if size < 1:
        raise ValueError("must be a size like 4GB, 512MiB or a number of bytes")
    return int(size)


Bytes = Annotated[int, BeforeValidator(lambda size: parse_bytes(size) if isinstance(size, str) else size)]
"""A number of bytes, which may be written like ``4GB``."""


def nearest_setting(name: str, known: Iterable[str]) -> str | None:
    """Returns the known setting whose name is most like ``name``, if any is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return near[0] if near else None


def _faults(error: ValidationError, settings: type[StageSettings]) -> list[str]:
    """Says what is wrong with some settings; an unknown name comes with the nearest of those known."""
    faults = []
    places = [fault["loc"] for fault in error.errors()]
    for fault in error.errors(include_url=False):
        place = fault["loc"]
        name = ".".join(map(str, place))
        if fault["type"] == "too_short" and any(place == other[: len(place)] != other for other in places):
            continue  # its items are at fault, not their number
        if fault["type"] == "extra_forbidden":
            near = nearest_setting(str(place[-1]), settings.known())
            hint = f"did you mean {near!r}?" if near else f"see {settings.where_listed} for all settings"
            faults.append(f"unknown setting {name!r}; {hint}")
        elif fault["type"] == "missing":
            faults.append(f"setting {name!r} is required")
        else:
            said = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
            faults.append(f"{name}: {said}. Got {repr(fault['input'])[:200]}" if name else said)
    return faults


def absolute_source(source: str, separator: str) -> str:
    """Returns a source, ``PATH``, ``NAME`` or ``NAME=PATH``, with its path found from anywhere."""
    name, mark, path = source.strip().partition(separator) if separator in source else ("", "", source.strip())
    return f"{name}{mark}{os.path.abspath(path)}" if os.path.exists(path) else source
