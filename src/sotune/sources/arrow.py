"""From Arrow tables to rows that JSON can hold: what Parquet and Arrow files and Hugging Face datasets share."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from sotune.errors import DataError, first_line
from sotune.sources.rows import MAX_VALUES, Flaw, RawRow, too_large
from sotune.sources.streams import Allowance

BATCH_ROWS = 1024
MAX_UNFOLDED_BYTES = 1 << 28
"""256 MiB. Values that a table holds once and names often take far more memory as rows than as a file."""


@contextlib.contextmanager
def readable(source: str, kind: str) -> Iterator[None]:
    """Turns all that pyarrow and datasets raise of bytes that they cannot read into one error.

    Raises:
        DataError: The source is not what it should be.
    """
    import pyarrow as pa

    known = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
    try:
        yield
    except (pa.ArrowException, *known) as error:
        raise DataError(f"{source} is not {kind} ({first_line(error)}); copy or write it again") from error


def table_rows(
    tables: Iterable[Any], *, max_row_bytes: int = MAX_UNFOLDED_BYTES, allowance: Allowance | None = None
) -> Generator[RawRow, None, None]:
    """Yields the rows of Arrow tables or record batches, numbered from 1 across them.

    A row that is seen to be over the cap before its texts are looked up is not read.

    Raises:
        DataError: They hold more than the allowance.
    """
    number = 0
    take = _nothing if allowance is None else allowance.take
    for table in tables:
        for batch in _batches(table):
            for value in _values(batch, max_row_bytes, take):
                number += 1
                yield RawRow(number, _json_value(value))


def _batches(table: Any) -> Iterator[Any]:
    """Yields the rows in parts, one after another: of values that take no room there may be any number."""
    import pyarrow as pa

    for batch in table.to_batches() if isinstance(table, pa.Table) else [table]:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _nothing(n_bytes: int) -> None:
    """Takes from an allowance without end."""


def _values(batch: Any, max_row_bytes: int, take: Callable[[int], None]) -> Iterable[Any]:
    rows = (_single_value(batch.slice(i, 1), max_row_bytes, take) for i in range(batch.num_rows))
    try:
        batch.validate(full=True)  # files can name places that their own buffers lack
        unfolded, n_values = sum(map(_unfolded_bytes, batch.columns)), max(map(_n_values, batch.columns), default=0)
        if unfolded > MAX_UNFOLDED_BYTES or n_values > MAX_VALUES * 10:
            return rows
        take(unfolded)
        return _without_dictionaries(batch).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError):  # text that is not UTF-8, a date beyond year 9999, …
        return rows


def _without_dictionaries(batch: Any) -> Any:
    """Returns a batch that is much faster to turn into Python objects."""
    import pyarrow as pa

    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _single_value(row: Any, max_row_bytes: int, take: Callable[[int], None]) -> Any:
    """Returns a row whose columns are read apart, so that one that cannot be read spoils itself alone."""
    if sum(map(_looked_up_bytes, row.columns)) > max_row_bytes:
        return Flaw(str(too_large(max_row_bytes)))
    cells = {name: _checked(column) for name, column in zip(row.schema.names, row.columns, strict=True)}
    sound = [cell for cell in cells.values() if not isinstance(cell, Flaw)]
    if sum(map(_n_values, sound)) > MAX_VALUES:
        return Flaw(f"over {MAX_VALUES} values in one row")
    if (unfolded := sum(map(_unfolded_bytes, sound))) > MAX_UNFOLDED_BYTES:
        return Flaw(str(too_large(MAX_UNFOLDED_BYTES)))
    take(unfolded)
    return {name: cell if isinstance(cell, Flaw) else _cell(cell) for name, cell in cells.items()}


def _checked(column: Any) -> Any:
    try:
        column = _undivided(column)
        column.validate(full=True)
        return column
    except ValueError:
        return Flaw("a value that cannot be read: damaged, or text that is not UTF-8", of_value=True)


def _cell(column: Any) -> Any:
    try:
        return column.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Flaw(f"a value that cannot be read: {type(error).__name__}", of_value=True)


def _undivided(column: Any) -> Any:
    """Returns a cell without the values of other rows, which a dictionary holds too."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type) or column.type.value_type != pa.string():
        return column
    values = column.dictionary
    values.view(pa.binary()).validate(full=True)
    return values.take(column.indices)


def _looked_up_bytes(cell: Any) -> int:
    """Returns how long a text is that a dictionary holds; 0 for all other cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(cell.type) or cell.type.value_type != pa.string():
        return 0
    place = cell.indices[0].as_py()
    sound = place is not None and 0 <= place < len(cell.dictionary)
    return pc.binary_length(cell.dictionary.slice(place, 1))[0].as_py() or 0 if sound else 0


def _unfolded_bytes(array: Any) -> int:
    """Returns how many bytes an array takes, about, where each value stands for itself."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type) and _is_text(array.type.value_type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_unfolded_bytes, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _unfolded_bytes(array.flatten())
    return int(array.nbytes)


def _n_values(array: Any) -> int:
    """Returns how many values an array holds, those within its values counted too."""
    import pyarrow as pa

    if pa.types.is_struct(array.type):
        return len(array) + sum(map(_n_values, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return len(array) + _n_values(array.flatten())
    return len(array)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return any(
        is_it(kind) for is_it in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    )


def _json_value(value: Any) -> Any:
    """Returns the JSON form of an Arrow value, with a ``Flaw`` where it has none.

    Bytes are text if they are UTF-8, and nothing else: images and the like are never decoded.
    """
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
    if isinstance(value, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return _text(value)
    return Flaw(f"a value that JSON cannot hold: {type(value).__name__}", of_value=True)


def _text(value: bytes) -> str | Flaw:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return Flaw("a value that JSON cannot hold: bytes that are not UTF-8", of_value=True)
