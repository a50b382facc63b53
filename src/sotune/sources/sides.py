"""One source that holds both sides of a reference: which of its rows or answers are harmful, and which are safe."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from sotune.catalogue import data_set_names, load_data_set
from sotune.errors import DataError
from sotune.sources.opening import open_source
from sotune.sources.options import SourceOptions

Side = Literal["harmful", "safe"]

_SAMPLE_ROWS = 100
_FLAGS: dict[str, str | None] = {"is_safe": None, "is_response_0_safe": "response_0"}
"""Columns that say whether an answer is safe, and where that answer stands if not in one of the usual columns."""
_LABELS = ("label", "kind")
_WORDS: dict[Side, tuple[str, ...]] = {"harmful": ("harmful", "unsafe"), "safe": ("safe", "benign", "refusal")}
_ANSWERS: dict[Side, str] = {"harmful": "rejected", "safe": "chosen"}


def choose_side(source: str, options: SourceOptions, side: Side) -> tuple[str, SourceOptions]:
    """Returns the source of one side, and how it is read: by a data set's name, or by the columns of the first rows.

    Rows are told apart by ``is_safe``, by a ``label`` or ``kind`` that says so in a known word, or they are pairs of
    a ``chosen``, safe answer and a ``rejected``, harmful one. Options that say which rows or answers are meant stay.

    Args:
        source: Holds both sides.
        options: What the user said about this side.
        side: Which one is wanted.

    Raises:
        DataError: The source cannot be read, or nothing in it tells the sides apart.
    """
    if options.where or options.completion_column:
        return source, options
    if source in data_set_names() and (reference := load_data_set(source).reference) and reference.safe:
        return (reference.harmful if side == "harmful" else reference.safe).name, options
    rows = _first_rows(source, options)
    columns = {column for row in rows for column in row}
    if set(_ANSWERS.values()) <= columns:
        return source, replace(options, completion_column=_ANSWERS[side])
    for flag, answer in _FLAGS.items():
        if flag in columns:
            where = (f"{flag}={'true' if side == 'safe' else 'false'}",)
            return source, replace(options, where=where, completion_column=answer if answer in columns else None)
    for label in _LABELS:
        if {row.get(label) for row in rows if isinstance(row.get(label), str)} & {*itertools.chain(*_WORDS.values())}:
            return source, replace(options, where=tuple(f"{label}={word}" for word in _WORDS[side]))
    raise DataError(
        f"{source} is named for the harmful and for the safe reference, but nothing tells its {side} rows: no column "
        f"is_safe, no label like harmful or safe, and no pairs of chosen and rejected; name their values with "
        f"harmful_where and safe_reference_where, or give two sources"
    )


def _first_rows(source: str, options: SourceOptions) -> Sequence[dict[str, Any]]:
    with contextlib.closing(open_source(source, options).rows()) as opened:
        found = [row.value for _, row in itertools.islice(opened, _SAMPLE_ROWS)]
    return [row for row in found if isinstance(row, dict)]
