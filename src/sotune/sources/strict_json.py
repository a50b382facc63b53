"""JSON as the standard has it: what Python's decoder lets pass is marked as a flaw, not raised."""

from __future__ import annotations

import json
from typing import Any

from sotune.sources.rows import Flaw

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
