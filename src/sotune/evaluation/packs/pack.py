"""What a task pack says about a public data set: where it lies, under which licence, and how its rows are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Formatter
from typing import Any

from sotune.errors import ConfigError, DataError
from sotune.evaluation.judges.match import MATCH_RULES, MatchRule
from sotune.evaluation.protocol import KINDS, EvalPrompt, Kind
from sotune.records import Message

ANY_COLUMN = "*"
"""As a prompt, says that the rows have one nameless column: a CSV file whose first line is a row, too."""


@dataclass(frozen=True, slots=True)
class PackPart:
    """Which rows of the data set become prompts of one kind, and how.

    Attributes:
        kind: What the prompts test.
        splits: Splits of the data set that are read.
        where: Row filters, ``COLUMN=VALUE``.
        prompt: Text with columns in braces, as in ``Question: {question}``; or ``*``.
        first_turn: Whether the prompt column is a transcript, of which the first human turn is asked.
        reference: Column with the right answer; None for prompts without one.
        reference_after: The answer is what follows this mark's last occurrence in the reference column.
        choices: The labels to choose from; a whole number in the reference column picks one of them.
        category: Column that says what the prompt is about.
    """

    kind: Kind
    splits: tuple[str, ...]
    prompt: str
    where: tuple[str, ...] = ()
    first_turn: bool = False
    reference: str | None = None
    reference_after: str | None = None
    choices: tuple[str, ...] = ()
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """One public data set as prompts.

    Attributes:
        name: What a user calls it.
        title: What the data set is called.
        hub_id: Its id on the Hugging Face Hub.
        licence: As its source states it.
        gated: Whether its owner must grant access first.
        cite: Where it is described.
        subset: Its configuration on the Hub; None for its only one.
        data_dir: Its folder on the Hub; None for all of it.
        match: How its answers are matched with their reference; None where there is none.
        scored_by: The task of lm-evaluation-harness that must score it; None where this package does.
        parts: How its rows are read; empty only with ``scored_by``.
    """

    name: str
    title: str
    hub_id: str
    licence: str
    gated: bool
    cite: str
    parts: tuple[PackPart, ...]
    subset: str | None = None
    data_dir: str | None = None
    match: MatchRule | None = None
    scored_by: str | None = None


def pack_names() -> list[str]:
    """Returns the names of all packs, sorted."""
    files = resources.files("sotune.evaluation.packs").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_pack(name: str) -> Pack:
    """Reads one of the packs that come with the package.

    Raises:
        ConfigError: There is no such pack, or its file is faulty.
    """
    import yaml

    if name not in pack_names():
        raise ConfigError(f"there is no task pack {name!r}; there are {', '.join(pack_names())}")
    text = resources.files("sotune.evaluation.packs").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_pack(name, yaml.safe_load(text))


def parse_pack(name: str, fields: Mapping[str, Any]) -> Pack:
    """Builds a pack from the content of its file.

    Raises:
        ConfigError: A field is unknown or missing, or a kind, rule or template is faulty.
    """
    try:
        parts = tuple(_part(fields.get("splits", ()), part) for part in fields.get("parts", ()))
        rest = {key: value for key, value in fields.items() if key not in ("parts", "splits")}
        pack = Pack(name=name, parts=parts, **rest)
    except TypeError as error:
        raise ConfigError(f"task pack {name}: a field is unknown or missing ({error}); mend its file") from None
    if not pack.parts and pack.scored_by is None:
        raise ConfigError(f"task pack {name} has neither parts nor scored_by; say how its rows are read")
    if pack.match is not None and pack.match not in MATCH_RULES:
        raise ConfigError(f"task pack {name}: match must be one of {', '.join(MATCH_RULES)}. Got {pack.match!r}")
    return pack


def _part(splits: Sequence[str], fields: Mapping[str, Any]) -> PackPart:
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    values.setdefault("splits", tuple(splits))
    part = PackPart(**values)
    if part.kind not in KINDS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}. Got {part.kind!r}")
    return part


def read_row(pack: Pack, part: PackPart, row: Mapping[str, Any], *, id: str, place: str) -> EvalPrompt:
    """Turns one row into a prompt.

    Raises:
        DataError: The row lacks a column that the pack names, or holds no text there.
    """
    meta: dict[str, Any] = {"pack": pack.name}
    if pack.match is not None:
        meta["match"] = pack.match
    if part.choices:
        meta["choices"] = part.choices
    if part.category is not None:
        meta["category"] = row.get(part.category)
    reference = None if part.reference is None else _reference(part, row, place)
    return EvalPrompt(id, part.kind, (Message("user", _prompt(part, row, place)),), reference, meta)


def _prompt(part: PackPart, row: Mapping[str, Any], place: str) -> str:
    if part.prompt == ANY_COLUMN:
        text = _column(row, next(iter(row), ""), place)
    else:
        # Columns are put in as they are: braces in a row's text are text.
        pieces = Formatter().parse(part.prompt)
        text = "".join(
            literal + (_column(row, name, place) if name is not None else "") for literal, name, _, _ in pieces
        )
    if part.first_turn:
        text = re.split(r"\n\s*(?:Assistant|Human):", re.sub(r"^\s*Human:", "", text), maxsplit=1)[0]
    if not text.strip():
        raise DataError(f"{place}: the prompt is empty; the data set may have changed, name another revision or file")
    return text.strip()


def _reference(part: PackPart, row: Mapping[str, Any], place: str) -> str:
    value = row.get(part.reference or "")
    if part.choices and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(part.choices):
            raise DataError(f"{place}: {part.reference} is {value}, and there are {len(part.choices)} labels")
        return part.choices[value]
    text = _column(row, part.reference or "", place)
    return text.rpartition(part.reference_after)[2].strip() if part.reference_after else text.strip()


def _column(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"{place}: no text in the column {name!r}; the row has {', '.join(map(str, row)) or 'no columns'}. The "
            f"file is another than the pack's, or the data set has changed"
        )
    return value
