"""JSON as the standard has it: files of it, and JSON that stands as text inside a row, held to the same rules."""

from __future__ import annotations

import json
import sys
from typing import Any

from sotune.sources.rows import Flaw, RowFault, check_row

_LONGEST_INTEGER = 1000
"""Digits. Python itself refuses to read or write more than 4,300, by default."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Flaw:
    row = dict(pairs)
    return row if len(row) == len(pairs) else Flaw("the same key twice in one object")


def _integer(digits: str) -> int | Flaw:
    if len(digits) <= _LONGEST_INTEGER:
        return int(digits)
    return Flaw(f"a number of over {_LONGEST_INTEGER} digits", of_value=True)


def _constant(name: str) -> Flaw:
    # Python writes these where pandas has no value; other readers and writers of JSON refuse them.
    return Flaw(f"broken JSON: {name} is not a JSON number", of_value=True)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def decode(text: str) -> Any:
    """Returns the JSON value of a text, with a ``Flaw`` in place of each value that standard JSON forbids.

    Raises:
        json.JSONDecodeError: The text is not JSON.
        RecursionError: It nests too deeply to be read.
    """
    return _DECODER.decode(text)


def read_json_text(text: str, what: str) -> Any:
    """Returns the value of JSON text inside a row.

    Args:
        text: The JSON.
        what: What it is, for the reason.

    Raises:
        RowFault: It is not JSON, or holds a value that no row may hold.
    """
    try:
        value = decode(text)
    except (json.JSONDecodeError, RecursionError):
        raise RowFault(f"not JSON: {what}") from None
    for reason in check_row({what: value}, max_bytes=sys.maxsize).gaps.values():
        raise RowFault(reason)
    return value


def write_json_text(value: Any) -> str:
    """Returns the JSON text of a value as records keep it: keys in their order, letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def without_nulls(value: Any) -> Any:
    """Returns a value without the keys that are null: tables fill the keys that a row lacks with null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
