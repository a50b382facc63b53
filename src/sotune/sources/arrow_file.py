"""Parquet files, and Arrow files and streams as ``datasets`` caches them and pandas writes them, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from sotune.errors import DataError
from sotune.sources import arrow, arrow_messages, streams
from sotune.sources.rows import RawRow, check_columns

_MAX_CHUNK_VALUES = 100_000_000


def read_arrow(
    path: Path, *, max_row_bytes: int, bounds: streams.Bounds = streams.DEFAULT_BOUNDS
) -> Generator[RawRow, None, None]:
    """Yields the rows of an Arrow file or stream with their row numbers.

    Raises:
        DataError: The file is neither, or names a column twice, or says that it holds more than it may.
    """
    with streams.open_seekable(path, bounds) as file, arrow.readable(str(path), "a readable Arrow file or stream"):
        check_messages(file, path, bounds)
        allowance = bounds.allowance(path)
        yield from arrow.table_rows(_batches(file, path), max_row_bytes=max_row_bytes, allowance=allowance)


def read_parquet(
    path: Path, *, max_row_bytes: int, bounds: streams.Bounds = streams.DEFAULT_BOUNDS
) -> Generator[RawRow, None, None]:
    """Yields the rows of a Parquet file with their row numbers.

    Raises:
        DataError: The file is not readable Parquet, or names a column twice.
    """
    import pyarrow.parquet as pq

    with streams.open_seekable(path, bounds) as file, arrow.readable(str(path), "readable Parquet"):
        found = pq.ParquetFile(file)
        _check_promises(found, path, bounds)
        schema = found.schema
        texts = [column.path for column in schema if column.physical_type == "BYTE_ARRAY"]
        # A value that a page holds once and the rows name often is read once, so that no small file fills the memory.
        table = pq.ParquetFile(file, read_dictionary=texts)
        check_columns(table.schema_arrow.names, str(path))
        batches = table.iter_batches(batch_size=arrow.BATCH_ROWS)
        yield from arrow.table_rows(batches, max_row_bytes=max_row_bytes, allowance=bounds.allowance(path))


def _check_promises(file: Any, path: Path, bounds: streams.Bounds) -> None:
    """Raises a DataError where a file says that it holds more than it may, before any of it is unpacked."""
    metadata = file.metadata
    _check_rows(metadata.num_rows, path, bounds)
    allowance = bounds.allowance(path)
    for number in range(metadata.num_row_groups):
        # Damaged figures of a column abort the process where they are asked for; reading no row of it raises first.
        list(file.reader.iter_batches(0, row_groups=[number], use_threads=False))
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.num_values > _MAX_CHUNK_VALUES:
                raise DataError(f"{path} holds {column.num_values} values in one piece, over {_MAX_CHUNK_VALUES}")
            allowance.take(max(0, column.total_uncompressed_size))


def check_messages(file: IO[bytes], path: Path, bounds: streams.Bounds) -> None:
    """Raises a DataError where an Arrow file says that it holds more than it may, before any of it is unpacked.

    Raises:
        ValueError: It is no Arrow file.
    """
    allowance, n_rows = bounds.allowance(path), 0
    for promise in arrow_messages.promises(file):
        n_rows += max(0, promise.n_rows)
        _check_rows(n_rows, path, bounds)
        allowance.take(promise.n_bytes)


def _check_rows(n_rows: int, path: Path, bounds: streams.Bounds) -> None:
    if bounds.max_rows is not None and n_rows > bounds.max_rows:
        raise DataError(
            f"{path} holds {n_rows} rows, over max_rows={bounds.max_rows}; raise --max-rows, or read the first ones "
            f"with --limit"
        )


def _batches(file: IO[bytes], path: Path) -> Iterator[Any]:
    import pyarrow as pa

    file.seek(0)
    is_file = file.read(len(arrow_messages.MAGIC)) == arrow_messages.MAGIC
    file.seek(0)
    reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
    check_columns(reader.schema.names, str(path))
    yield from (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
