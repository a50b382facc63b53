"""What all settings share: strictness, one voice for faults, sizes and paths."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class StageSettings(BaseModel):
    """Settings of one stage: frozen, and any key that is not among them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, given: Any) -> Any:
        """Takes one text for a list of one."""
        if not isinstance(given, Mapping):
            return given
        lists = {name for name, field in cls.model_fields.items() if field.annotation == tuple[str, ...]}
        return {name: (value,) if name in lists and isinstance(value, str) else value for name, value in given.items()}


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


def nearest_setting(name: str, known: Iterable[str]) -> str | None:
    """Returns the known setting whose name is most like ``name``, if any is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return near[0] if near else None


def describe_faults(error: ValidationError, origin: str, known: Iterable[str]) -> str:
    """Puts all faults of some settings into one line; an unknown name comes with the nearest of those known."""
    faults = []
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = nearest_setting(name, known)
            hint = f"; did you mean {near!r}?" if near else "; see `sotune run --help` for all settings"
            faults.append(f"unknown setting {name!r}{hint}")
        elif fault["type"] == "missing":
            faults.append(f"setting {name!r} is required")
        else:
            faults.append(f"{name}: {fault['msg']}. Got {fault['input']!r}")
    return f"{origin}: " + "; ".join(faults)


def absolute_source(source: str, separator: str) -> str:
    """Returns a source, ``PATH``, ``NAME`` or ``NAME=PATH``, with its path found from anywhere."""
    name, mark, path = source.strip().partition(separator) if separator in source else ("", "", source.strip())
    return f"{name}{mark}{os.path.abspath(path)}" if os.path.exists(path) else source
