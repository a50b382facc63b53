"""CSV and TSV: a header line, then one row of text fields a record, which quotes may spread over lines."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from sotune.errors import DataError
from sotune.sources import streams
from sotune.sources.rows import Flaw, RawRow, check_columns, too_large

_LONGEST_ROW = 16
"""Multiple of the row cap. A row beyond it is a quote that was never closed: nothing after it can be trusted."""


def read_csv(
    path: Path, *, delimiter: str, max_row_bytes: int, bounds: streams.Bounds = streams.DEFAULT_BOUNDS
) -> Generator[RawRow, None, None]:
    """Yields the rows of a CSV file, each with the number of the physical line that it starts on.

    Raises:
        DataError: The header names a column twice, a row has no end in sight, or the file cannot be read.
    """
    with streams.open_bytes(path, bounds) as file:
        parser = _Parser(file, path, delimiter=delimiter, max_bytes=_LONGEST_ROW * max_row_bytes)
        header: list[str] | None = None
        for line, fields in parser.rows():
            if header is None:
                header = _check_header(fields, path, line)
            else:
                yield RawRow(line, _row(header, fields, parser.row_bytes, max_row_bytes))


def _check_header(fields: list[str] | Flaw, path: Path, line: int) -> list[str]:
    if isinstance(fields, Flaw):
        raise DataError(f"{path}:{line}: the header cannot be read ({fields.reason}); mend the first line")
    if len(fields) == 1 and ";" in fields[0]:  # as a spreadsheet saves it where the comma is the decimal mark
        raise DataError(f"{path}:{line}: the columns are divided by ';'; save the file with commas, or as TSV")
    check_columns(fields, f"{path}:{line}: the header")
    return fields


def _row(header: list[str], fields: list[str] | Flaw, n_bytes: int, max_bytes: int) -> dict[str, str] | Flaw:
    if isinstance(fields, Flaw):
        return fields
    if n_bytes > max_bytes:
        return Flaw(str(too_large(max_bytes)))
    if len(fields) != len(header):
        return Flaw(f"wrong number of columns: {len(fields)} where the header has {len(header)}")
    return dict(zip(header, fields, strict=True))


class _Parser:
    """Drives ``csv.reader`` and knows, at each row, its first physical line, its bytes and its quotes."""

    def __init__(self, file: IO[bytes], path: Path, *, delimiter: str, max_bytes: int) -> None:
        self._lines = streams.lines(file, path, max_bytes=max_bytes)
        self._path = path
        self._max_bytes = max_bytes
        self._quotes = 0
        self.row_bytes = 0
        self._reader = csv.reader(self._text_lines(), delimiter=delimiter, strict=True)

    def rows(self) -> Iterator[tuple[int, list[str] | Flaw]]:
        """Yields first line and fields of each row that is not blank.

        After a row with a broken quote the parser cannot know whether the next line starts a row, or is the
        rest of the broken one. It goes on from the first row whose quotes pair up.
        """
        after_broken_quote = False
        while True:
            first = self._reader.line_num + 1
            self.row_bytes = self._quotes = 0
            try:
                with _field_limit(self._max_bytes):
                    fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                after_broken_quote = True
                # A quote that is not closed in its own row swallows good rows: each line counts as one lost.
                for line in range(first, self._reader.line_num + 1):
                    yield line, Flaw(f"broken CSV: {error}")
                continue
            after_broken_quote = after_broken_quote and self._quotes % 2 == 1
            if after_broken_quote:
                yield first, Flaw("broken CSV: the line follows a broken quote and may belong to that row")
            elif len(fields) > 1 or "".join(fields).strip():
                yield first, fields

    def _text_lines(self) -> Iterator[str]:
        for number, line in self._lines:
            self.row_bytes += self._max_bytes + 1 if line is None else len(line)
            if line is None or self.row_bytes > self._max_bytes:
                raise DataError(
                    f"{self._path}:{number}: the CSV row that ends or goes on here is over {self._max_bytes} bytes, "
                    f"as after a quote that is never closed; close the quote, or raise --max-row-bytes"
                )
            self._quotes += line.count(b'"')
            # Bytes that are not UTF-8 become lone surrogates, for which the row is quarantined.
            yield line.decode("utf-8", errors="surrogateescape")


@contextlib.contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    """Lifts the field limit of the ``csv`` module, which is global, for one row only."""
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)
