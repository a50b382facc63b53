"""A row as a reader hands it on, and the rules that every row keeps, whatever its file format."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sotune.errors import DataError

MAX_DEPTH = 100
"""Rows nested deeper than this cannot be rewritten safely: the JSON encoder recurses."""

MAX_VALUES = 100_000
"""Values of one row. In memory each takes far more than the byte or two that it may take in a file."""

MAX_COLUMNS = 10_000

_SHOWN_KEYS = 20
_SHOWN_LENGTH = 40


class RowFault(Exception):
    """A row cannot become a record. The message is the quarantine reason: ``kind`` or ``kind: detail``."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Stands where a reader found something that no row may hold, so that one bad row never stops a file.

    Attributes:
        reason: What it is, as the quarantine has it.
        of_value: It spoils one value alone, which counts as null where the value is not needed.
    """

    reason: str
    of_value: bool = False


class RawRow(NamedTuple):
    """One row of a file before validation: its line or row number, from 1, and what was read there."""

    line: int
    value: Any


class CheckedRow(NamedTuple):
    """A row that is known to be a JSON object that survives being written and read again.

    Attributes:
        row: Its columns; null stands for each value that JSON cannot hold.
        gaps: The columns with such values, and what was there.
    """

    row: dict[str, Any]
    gaps: dict[str, str]


def check_row(value: Any, *, max_bytes: int) -> CheckedRow:
    """Checks a row, and puts null in place of the values that JSON cannot hold.

    Args:
        value: What the reader read; the row returned is the same object.
        max_bytes: The most bytes of text, keys included, that a row may hold.

    Raises:
        RowFault: The row has a flaw, is no object, nests too deeply, is too large, or holds text that is not
            Unicode.
    """
    if isinstance(value, Flaw):
        raise RowFault(value.reason)
    if not isinstance(value, dict):
        raise RowFault(f"not a JSON object: found {json_type(value)}")
    n_bytes = 0
    gaps: dict[str, str] = {}
    stack: list[tuple[Any, int, Any]] = [(value, 1, "")]
    while stack:
        holder, depth, column = stack.pop()
        if depth > MAX_DEPTH:
            raise RowFault(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(holder, dict):
            n_bytes += sum(map(_utf8_length, holder))
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            top: Any = key if depth == 1 else column
            if isinstance(item, str):
                n_bytes += _utf8_length(item)
            elif isinstance(item, dict | list):
                stack.append((item, depth + 1, top))
            elif (flaw := _flaw_of(item)) is not None:
                gaps.setdefault(top, flaw.reason)
                holder[key] = None
        if n_bytes > max_bytes:
            raise too_large(max_bytes)
    return CheckedRow(value, gaps)


def count_values(text: bytes) -> int:
    """Returns how many values a JSON text holds at most, without reading it; commas in its texts count too."""
    return sum(map(text.count, (b",", b"[", b"{")))


def check_columns(names: Sequence[str], source: str) -> None:
    """Refuses a table that names a column twice, or has more of them than any data needs.

    Raises:
        DataError: It does.
    """
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{source} has {len(names)} columns, over {MAX_COLUMNS}; write those that hold the rows")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source} names column {shown(twice[0])!r} twice; rename one of the two")


def too_large(max_bytes: int) -> RowFault:
    """Returns the fault of a row that is over the cap."""
    return RowFault(f"row too large: over {max_bytes} bytes")


def json_type(value: object) -> str:
    """Returns what JSON calls the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def shown_keys(row: dict[str, Any]) -> str:
    """Returns the keys of a row for a message, at most 20 and each cut short."""
    keys = [shown(key) for key in row]
    more = f", and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return (", ".join(keys[:_SHOWN_KEYS]) or "none") + more


def shown(text: str) -> str:
    """Returns a name or short value for a message: on one line, printable and cut short."""
    short = text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"
    return short if short.isprintable() else repr(short)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the known name nearest to a wrong one, or at all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {shown(close[0])!r}?" if close else f"known are {shown_keys(dict.fromkeys(names))}"


def _utf8_length(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise RowFault("text that is not Unicode: a lone surrogate, or bytes that are not UTF-8") from None


def _flaw_of(item: object) -> Flaw | None:
    """Returns what keeps a value out of JSON; None where nothing does.

    Raises:
        RowFault: It spoils the whole row.
    """
    if isinstance(item, Flaw):
        if not item.of_value:
            raise RowFault(item.reason)
        return item
    if isinstance(item, float):
        return None if math.isfinite(item) else Flaw("a number beyond the range of JSON readers")
    if item is None or isinstance(item, int):  # a bool is an int
        return None
    return Flaw(f"a value that JSON cannot hold: {type(item).__name__}")
