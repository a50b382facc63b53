"""Parquet files, read batch by batch."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from sotune.sources import arrow, streams
from sotune.sources.rows import RawRow, check_columns


def read_parquet(path: Path, *, max_row_bytes: int) -> Generator[RawRow, None, None]:
    """Yields the rows of a Parquet file with their row numbers.

    Raises:
        DataError: The file is not readable Parquet, or names a column twice.
    """
    import pyarrow.parquet as pq

    with streams.open_seekable(path) as file, arrow.readable(str(path), "readable Parquet"):
        schema = pq.ParquetFile(file).schema
        texts = [column.path for column in schema if column.physical_type == "BYTE_ARRAY"]
        # A value that a page holds once and the rows name often is read once, so that no small file fills the memory.
        table = pq.ParquetFile(file, read_dictionary=texts)
        check_columns(table.schema_arrow.names, str(path))
        batches = table.iter_batches(batch_size=arrow.BATCH_ROWS)
        yield from arrow.table_rows(batches, max_row_bytes=max_row_bytes)
