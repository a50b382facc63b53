"""Parquet files, read batch by batch."""

from __future__ import annotations

import gzip
import io
from collections.abc import Generator
from pathlib import Path
from typing import IO

from sotune.errors import DataError
from sotune.sources import arrow, streams
from sotune.sources.rows import RawRow, check_columns

MAX_UNZIPPED_BYTES = 1 << 31
"""2 GiB: how much memory a gzip-compressed Parquet file may take once unpacked."""


def read_parquet(path: Path) -> Generator[RawRow, None, None]:
    """Yields the rows of a Parquet file with their row numbers.

    Raises:
        DataError: The file is not readable Parquet, or names a column twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with streams.open_bytes(path) as file:
        seekable = _seekable(file, path)
        try:
            table = pq.ParquetFile(seekable)
            check_columns(table.schema_arrow.names, str(path))
            yield from arrow.table_rows(table.iter_batches(batch_size=arrow.BATCH_ROWS))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not readable Parquet ({error}); copy or write the file again") from error


def _seekable(file: IO[bytes], path: Path) -> IO[bytes]:
    """Returns a file that can be read at any place: a compressed one lies in memory."""
    if not isinstance(file, gzip.GzipFile):
        return file
    data = file.read(MAX_UNZIPPED_BYTES + 1)
    if len(data) > MAX_UNZIPPED_BYTES:
        raise DataError(f"{path} unpacks to over {MAX_UNZIPPED_BYTES} bytes; unpack it by hand if that is expected")
    return io.BytesIO(data)
