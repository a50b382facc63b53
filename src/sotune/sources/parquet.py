"""Parquet files, read batch by batch."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from sotune.errors import DataError
from sotune.sources import arrow, streams
from sotune.sources.rows import RawRow

MAX_UNZIPPED_BYTES = 1 << 33
"""8 GiB: how much disk the temporary copy of a gzip-compressed Parquet file may take."""

_CHUNK_BYTES = 1 << 20


def read_parquet(path: Path) -> Generator[RawRow, None, None]:
    """Yields the rows of a Parquet file with their row numbers.

    Raises:
        DataError: The file is not readable Parquet, or names a column twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as file:
        try:
            table = pq.ParquetFile(file)
            arrow.check_columns(table.schema_arrow.names, str(path))
            yield from arrow.table_rows(table.iter_batches(batch_size=arrow.BATCH_ROWS))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not readable Parquet ({error}); copy or write the file again") from error


@contextlib.contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading at any place, through a temporary copy when it is compressed."""
    with streams.open_bytes(path) as file:
        if not isinstance(file, gzip.GzipFile):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            _copy(file, copy, path)
            copy.seek(0)
            yield copy


def _copy(source: IO[bytes], target: IO[bytes], path: Path) -> None:
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        if target.tell() > MAX_UNZIPPED_BYTES:
            raise DataError(f"{path} unpacks to over {MAX_UNZIPPED_BYTES} bytes; unpack it by hand if that is expected")
