"""Row filters: ``COLUMN=VALUE``, alternatives on one column, conjunction over columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sotune.errors import ConfigError, DataError
from sotune.sources.rows import nearest, shown

_MAX_VALUES = 8
_LONGEST_VALUE = 40


class RowFilter:
    """Keeps the rows whose columns have the values wanted, and remembers what it saw to explain itself.

    Values are compared as text: booleans as ``true`` and ``false``, null as ``null``, lists and objects as
    compact JSON. A row that lacks a column does not match.

    Args:
        where: The conditions, each ``COLUMN=VALUE``; the first ``=`` divides them.

    Raises:
        ConfigError: A condition has no ``=`` or no column.
    """

    def __init__(self, where: Sequence[str]) -> None:
        self._wanted: dict[str, set[str]] = {}
        self._seen: dict[str, dict[str, None]] = {}
        self._found_columns: dict[str, None] = {}
        for condition in where:
            column, equals, value = condition.partition("=")
            if not equals or not column:
                raise ConfigError(f"a row filter must be COLUMN=VALUE. Got {condition!r}; write for example label=safe")
            self._wanted.setdefault(column, set()).add(value)
            self._seen.setdefault(column, {})

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the conditions name."""
        return frozenset(self._wanted)

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Tells whether a row matches."""
        kept = True
        for column, values in self._wanted.items():
            if column not in row:
                kept = False
                continue
            text = _as_text(row[column])
            self._remember(column, text)
            kept = kept and text in values
        if not kept:
            self._found_columns.update(dict.fromkeys(row))
        return kept

    def explain_nothing_left(self, source: str) -> DataError:
        """Returns the error for a set of which no row matched."""
        for column, values in self._seen.items():
            if not values:
                return DataError(
                    f"{source}: no row has the column {shown(column)!r} that a row filter names; "
                    f"{nearest(column, self._found_columns)}"
                )
        wanted = " and ".join(
            " or ".join(f"{column}={value}" for value in sorted(values)) for column, values in self._wanted.items()
        )
        seen = "; ".join(f"{shown(column)}: {_listed(list(values))}" for column, values in self._seen.items())
        return DataError(f"{source}: no row matches {wanted}; the values seen are {seen}; fix the filter")

    def _remember(self, column: str, text: str) -> None:
        seen = self._seen[column]
        if len(seen) <= _MAX_VALUES:
            # A long value may be the text of a row, which messages never show.
            seen[text if len(text) <= _LONGEST_VALUE else f"(text of {len(text)} characters)"] = None


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def _listed(values: list[str]) -> str:
    more = ", …" if len(values) > _MAX_VALUES else ""
    return ", ".join(shown(value) for value in values[:_MAX_VALUES]) + more
