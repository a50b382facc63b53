"""One set of rows, from a file or a Hugging Face data set to records, with an account of what was left out."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune import artifacts
from sotune.errors import ConfigError, DataError
from sotune.records import IdAssigner, Record, SetName, content_hash
from sotune.settings import Format
from sotune.sources.columns import Layout, choose_layout, read_conversation
from sotune.sources.filters import RowFilter
from sotune.sources.opening import OpenedSource, open_source
from sotune.sources.options import DEFAULT_OPTIONS, SourceOptions
from sotune.sources.quarantine import QuarantinedRow, check_fraction, no_row_left
from sotune.sources.rows import RowFault, check_row, json_type

Progress = Callable[[int], None]

_SAMPLE_ROWS = 100
_PROGRESS_ROWS = 1000
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class SourceFile:
    """What a set was read from.

    Attributes:
        name: The path, or the name of the data set.
        sha256: Of the bytes of a file, or of the canonical JSON of the rows read from a data set.
        n_rows: How many rows were read.
    """

    name: str
    sha256: str
    n_rows: int


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """One of the three sets.

    Attributes:
        name: Which one.
        records: The valid rows that pass the filters, in reading order.
        quarantined: The rows that could not be used, in reading order.
        n_read: Rows read, blank lines apart: records, quarantined and filtered-out ones.
        n_filtered_out: Rows that the filters left out.
        n_duplicates: Records whose conversation an earlier record has. They are kept.
        format: The schema named or detected.
        files: What was read.
    """

    name: SetName
    records: tuple[Record, ...]
    quarantined: tuple[QuarantinedRow, ...]
    n_read: int
    n_filtered_out: int
    n_duplicates: int
    format: Format
    files: tuple[SourceFile, ...]


def load_set(
    source: str | Path,
    *,
    set_name: SetName,
    options: SourceOptions = DEFAULT_OPTIONS,
    max_quarantine_fraction: float,
    progress: Progress | None = None,
) -> LoadedSet:
    """Reads one set.

    Args:
        source: A JSONL, JSON, CSV, TSV or Parquet file, any of them gzip-compressed; a folder that ``datasets``
            saved; or a data set on the Hub, ``owner/name`` or ``hf:owner/name``.
        set_name: Which of the three sets it is.
        options: What the user said about it.
        max_quarantine_fraction: The largest share of the rows that pass the filters that may be quarantined.
        progress: Called now and then with the number of rows read; None: nobody watches.

    Raises:
        ConfigError: An option is out of range or a row filter is malformed.
        DataError: The source cannot be read, has no usable row, too many bad rows, columns of no known format,
            or a repeated id.
    """
    if not 0 <= max_quarantine_fraction <= 1:
        raise ConfigError(f"max_quarantine_fraction must lie in [0, 1]. Got {max_quarantine_fraction}")
    row_filter = RowFilter(options.where)
    opened = open_source(source, options)
    reading = _Reading(opened, set_name, row_filter, options, progress)
    with contextlib.closing(opened.rows):
        wanted = itertools.islice(reading.rows(), options.limit)
        head = list(itertools.islice(wanted, _SAMPLE_ROWS))
        if not head:
            raise reading.explain_no_row()
        layout = choose_layout([row for _, row in head], options, place=opened.place(head[0][0]))
        records = list(reading.records(itertools.chain(head, wanted), layout))
    if progress is not None:
        progress(reading.n_read)
    check_fraction(reading.quarantined, len(records), opened.name, max_fraction=max_quarantine_fraction)
    return LoadedSet(
        name=set_name,
        records=tuple(records),
        quarantined=tuple(sorted(reading.quarantined, key=lambda row: row.line)),
        n_read=reading.n_read,
        n_filtered_out=reading.n_filtered_out,
        n_duplicates=reading.n_duplicates,
        format=layout.format,
        files=(SourceFile(opened.name, reading.digest(), reading.n_read),),
    )


class _Reading:
    """One pass over a source: counts what it reads and sets aside what cannot be used."""

    def __init__(
        self,
        source: OpenedSource,
        set_name: SetName,
        row_filter: RowFilter,
        options: SourceOptions,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._set_name: SetName = set_name
        self._filter = row_filter
        self._options = options
        self._progress = progress
        self._digest = hashlib.sha256()
        self.quarantined: list[QuarantinedRow] = []
        self.n_read = 0
        self.n_filtered_out = 0
        self.n_duplicates = 0

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields line number and row for each readable row that passes the filters."""
        for line, value in self._source.rows:
            self.n_read += 1
            if self._progress is not None and self.n_read % _PROGRESS_ROWS == 0:
                self._progress(self.n_read)
            try:
                row = check_row(value, max_bytes=self._options.max_row_bytes)
            except RowFault as fault:
                self._set_aside(line, fault, row_id=None)
                continue
            if self._source.path is None:
                self._digest.update(artifacts.sha256_json(row).encode())
            if self._filter.keeps(row):
                yield line, row
            else:
                self.n_filtered_out += 1

    def records(self, rows: Iterable[tuple[int, dict[str, Any]]], layout: Layout) -> Iterator[Record]:
        """Yields a record for each row that holds a prompt and a completion."""
        ids = IdAssigner(self._source.name)
        contents: set[str] = set()
        for line, row in rows:
            own_id = None
            try:
                own_id = _own_id(row, self._options.id_column)
                messages, tools = read_conversation(row, layout)
            except RowFault as fault:
                self._set_aside(line, fault, row_id=own_id)
                continue
            digest = content_hash(messages, tools)
            self.n_duplicates += digest in contents
            contents.add(digest)
            origin = self._source.place(line)
            yield Record(ids.assign(own_id, digest, origin=origin), messages, tools, row, origin)

    def digest(self) -> str:
        """Returns the SHA-256 of the file, or of the readable rows where the source is not one file."""
        return self._digest.hexdigest() if self._source.path is None else artifacts.sha256_file(self._source.path)

    def explain_no_row(self) -> DataError:
        """Returns the error for a source of which no row can be read or none passes the filters."""
        if self.n_read == 0:
            return DataError(f"{self._source.name} holds no rows; name a file with at least one")
        if self.n_filtered_out > 0:
            return self._filter.explain_nothing_left(self._source.name)
        return no_row_left(self.quarantined, self._source.name)

    def _set_aside(self, line: int, fault: RowFault, *, row_id: str | None) -> None:
        self.quarantined.append(
            QuarantinedRow(self._set_name, self._source.name, line, reason=str(fault), row_id=row_id)
        )


def _own_id(row: dict[str, Any], column: str) -> str | None:
    """Returns the user's own id of a row; None where the column is missing, null or blank."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowFault(f"an id that is neither text nor a whole number: {json_type(value)}")
    own = str(value)
    if len(own) > _LONGEST_ID:
        raise RowFault(f"an id of over {_LONGEST_ID} characters")
    return own
