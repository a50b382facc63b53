"""From Arrow tables to rows that JSON can hold: what Parquet files and Hugging Face datasets share."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from sotune.sources.rows import Flaw, RawRow

BATCH_ROWS = 1024


def table_rows(tables: Iterable[Any]) -> Generator[RawRow, None, None]:
    """Yields the rows of Arrow tables or record batches, numbered from 1 across them."""
    number = 0
    for table in tables:
        for value in _values(table):
            number += 1
            yield RawRow(number, _json_value(value))


def _values(table: Any) -> Iterator[Any]:
    try:
        yield from table.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date beyond year 9999, …
        for i in range(table.num_rows):
            yield _single_value(table.slice(i, 1))


def _single_value(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Flaw(f"a value that cannot be read: {type(error).__name__}")


def _json_value(value: Any) -> Any:
    """Returns the JSON form of an Arrow value, with a ``Flaw`` where it has none."""
    if value is None or isinstance(value, str | bool | int | Flaw):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):  # Arrow maps come as lists of pairs
        return [_json_value(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    return Flaw(f"a value that JSON cannot hold: {type(value).__name__}")
