"""One set of rows, from a file or a Hugging Face data set to records, with an account of what was left out."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sotune import artifacts
from sotune.errors import ConfigError, DataError
from sotune.record_store import Keep, n_distinct
from sotune.records import IdAssigner, Record, SetName, content_digest
from sotune.settings import Format
from sotune.sources.columns import choose_layout, read_conversation
from sotune.sources.filters import RowFilter
from sotune.sources.layouts import Layout
from sotune.sources.opening import OpenedSource, Part, open_source
from sotune.sources.options import DEFAULT_OPTIONS, NO_ID_COLUMN, SourceOptions
from sotune.sources.quarantine import QuarantinedRow, check_fraction, no_row_left
from sotune.sources.rows import RawRow, RowFault, check_row, json_type, shown
from sotune.sources.unused import unused_text
from sotune.wording import counted

Progress = Callable[[int], None]
Check = Callable[[Record], object]

_SAMPLE_ROWS = 100
_PROGRESS_ROWS = 1000
_LONGEST_ID = 200
_SHOWN_GAPS = 5


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
    """One of the sets.

    Attributes:
        name: Which one.
        records: The valid rows that pass the filters, in reading order.
        digests: The `content_digest` of each, one after another.
        quarantined: The rows that could not be used, in reading order.
        n_read: Rows read, blank lines apart: records, quarantined and filtered-out ones.
        n_filtered_out: Rows that the filters left out.
        n_duplicates: Records whose conversation an earlier record has. They are kept.
        layout: Which columns hold what, as named or detected.
        unused: Columns that hold text which nobody asked for.
        files: What was read, file by file.
        warnings: What the user should know, each said once for the set.
    """

    name: SetName
    records: Sequence[Record]
    digests: bytes
    quarantined: tuple[QuarantinedRow, ...]
    n_read: int
    n_filtered_out: int
    n_duplicates: int
    layout: Layout
    unused: tuple[str, ...]
    files: tuple[SourceFile, ...]
    warnings: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """The schema named or detected."""
        return self.layout.format


def load_set(
    source: str | Path,
    *,
    set_name: SetName,
    options: SourceOptions = DEFAULT_OPTIONS,
    max_quarantine_fraction: float,
    remedy: str = "raise --max-quarantine-fraction",
    progress: Progress | None = None,
    check: Check | None = None,
    keep: Keep = tuple,
) -> LoadedSet:
    """Reads one set.

    Args:
        source: A JSONL, JSON, CSV, TSV, Parquet or Arrow file, any of them compressed; a folder of such files, or a
            pattern that matches them, which are one set; a folder that ``datasets`` saved; or a data set on the Hub,
            ``owner/name`` or ``hf:owner/name``.
        set_name: Which of the sets it is.
        options: What the user said about it.
        max_quarantine_fraction: The largest share of the rows that pass the filters that may be quarantined.
        remedy: What the caller's user can do where more are, but mend them.
        progress: Called now and then with the number of rows read; None: nobody watches.
        check: Called with each record; one for which it raises a `DataError` is quarantined. None: all are taken.
        keep: Where the records are kept; in memory by default.

    Raises:
        ConfigError: An option is out of range or a row filter is malformed.
        DataError: The source cannot be read, has no usable row, too many bad rows, columns of no known format,
            or a repeated id.
    """
    if not 0 <= max_quarantine_fraction <= 1:
        raise ConfigError(f"max_quarantine_fraction must lie in [0, 1]. Got {max_quarantine_fraction}")
    row_filter = RowFilter(options.where)
    opened = open_source(source, options)
    reading = _Reading(opened, set_name, row_filter, options, progress, check)
    with contextlib.closing(opened.rows()) as raw:
        wanted = itertools.islice(reading.rows(raw), options.limit)
        head = list(itertools.islice(wanted, _SAMPLE_ROWS))
        if not head:
            raise reading.explain_no_row()
        layout = choose_layout([row.columns for row in head], options, place=head[0].origin)
        records = keep(reading.records(itertools.chain(head, wanted), layout))
    if progress is not None:
        progress(reading.n_read)
    quarantined, unused = reading.quarantined, _unused(head, layout, row_filter, options)
    check_fraction(quarantined, len(records), opened.name, max_fraction=max_quarantine_fraction, remedy=remedy)
    return LoadedSet(
        name=set_name,
        records=records,
        digests=bytes(reading.digests),
        quarantined=tuple(quarantined),
        n_read=reading.n_read,
        n_filtered_out=reading.n_filtered_out,
        n_duplicates=len(records) - n_distinct(reading.digests),
        layout=layout,
        unused=unused,
        files=tuple(reading.files()),
        warnings=(*opened.notes, *_explain_unused(unused, opened.name), *reading.explain_gaps()),
    )


def load_rows(rows: Sequence[Mapping[str, Any]], *, options: SourceOptions = DEFAULT_OPTIONS) -> tuple[Record, ...]:
    """Reads rows that are in memory, in their order, by the same rules as those of a file.

    Args:
        rows: Each a mapping of columns; values that JSON cannot hold become null in it.
        options: What the user said about them.

    Raises:
        DataError: There is none, one cannot be used, or an id is repeated; places are like ``rows:3``, from 1.
    """
    raw = (RawRow(number, row) for number, row in enumerate(rows, start=1))
    opened = OpenedSource("rows", (Part("rows", (row for row in raw), None),))
    reading = _Reading(opened, "downstream", RowFilter(()), options, None, None)
    read = list(reading.rows(opened.rows()))
    if not read:
        raise reading.explain_no_row()
    layout = choose_layout([row.columns for row in read[:_SAMPLE_ROWS]], options, place=read[0].origin)
    records = tuple(reading.records(read, layout))
    if reading.quarantined:
        first = reading.quarantined[:_SHOWN_GAPS]
        told = "; ".join(f"{row.file}:{row.line}: {row.reason}" for row in first)
        raise DataError(f"{len(reading.quarantined)} of {len(rows)} rows cannot be used: {told}; fix or leave them out")
    return records


class _Row(NamedTuple):
    """A row that can be written as JSON, and where it stands."""

    number: int
    part: Part
    line: int
    columns: dict[str, Any]
    gaps: Mapping[str, str]

    @property
    def origin(self) -> str:
        return self.part.place(self.line)


@dataclass
class _Reading:
    """One pass over a source: counts what it reads and sets aside what cannot be used."""

    source: OpenedSource
    set_name: SetName
    row_filter: RowFilter
    options: SourceOptions
    progress: Progress | None
    check: Check | None
    n_read: int = 0
    n_filtered_out: int = 0

    def __post_init__(self) -> None:
        self.digests = bytearray()
        self._digest = hashlib.sha256()
        self._quarantined: dict[int, QuarantinedRow] = {}
        self._n_rows: Counter[str] = Counter()
        self._gaps: Counter[tuple[str, str]] = Counter()

    @property
    def quarantined(self) -> list[QuarantinedRow]:
        """The rows that could not be used, in reading order."""
        return [self._quarantined[number] for number in sorted(self._quarantined)]

    def rows(self, raw: Iterable[tuple[Part, RawRow]]) -> Iterator[_Row]:
        """Yields each readable row that passes the filters."""
        for part, (line, value) in raw:
            self.n_read += 1
            if self.n_read > self.options.max_rows:
                raise DataError(
                    f"{self.source.name} holds over max_rows={self.options.max_rows} rows; raise --max-rows, or read "
                    f"the first with --limit"
                )
            self._n_rows[part.name] += 1
            if self.progress is not None and self.n_read % _PROGRESS_ROWS == 0:
                self.progress(self.n_read)
            number = self.n_read
            try:
                columns, gaps = check_row(value, max_bytes=self.options.max_row_bytes)
            except RowFault as fault:
                self._set_aside(number, part, line, fault, row_id=None)
                continue
            if part.path is None:
                self._digest.update(artifacts.sha256_json(columns).encode())
            if self.row_filter.keeps(columns):
                yield _Row(number, part, line, columns, gaps)
            else:
                self.n_filtered_out += 1

    def records(self, rows: Iterable[_Row], layout: Layout) -> Iterator[Record]:
        """Yields a record for each row that holds a prompt and a completion."""
        ids = IdAssigner(self.source.name)
        for row in rows:
            own = None
            try:
                own = own_id(row.columns, self.options.id_column)
                _check_used(row, layout)
                messages, tools = read_conversation(row.columns, layout, learn_turns=self.options.learn_turns)
                digest = content_digest(messages, tools)
                record = Record(own or digest[:8].hex(), messages, tools, row.columns, row.origin)
                if self.check is not None:
                    self.check(record)
            except (RowFault, DataError) as fault:
                self._set_aside(row.number, row.part, row.line, fault, row_id=own)
                continue
            self._gaps.update(row.gaps.items())
            self.digests += digest
            yield replace(record, id=ids.assign(own, digest[:8].hex(), origin=row.origin))

    def files(self) -> Iterator[SourceFile]:
        """Yields what was read, with its SHA-256: of the file, or of the readable rows where it is no file."""
        for part in self.source.parts:
            digest = self._digest.hexdigest() if part.path is None else artifacts.sha256_file(part.path)
            yield SourceFile(part.name, digest, self._n_rows[part.name])

    def explain_gaps(self) -> list[str]:
        """Returns the warning on values that became null, if there were any."""
        if not self._gaps:
            return []
        found = ", ".join(
            f"{shown(column)} ({reason.removeprefix('broken JSON: ')}: {counted(count, 'row')})"
            for (column, reason), count in self._gaps.most_common(_SHOWN_GAPS)
        )
        more = f" and {len(self._gaps) - _SHOWN_GAPS} more" if len(self._gaps) > _SHOWN_GAPS else ""
        return [f"{self.source.name}: values that JSON cannot hold are null, in columns {found}{more}"]

    def explain_no_row(self) -> DataError:
        """Returns the error for a source of which no row can be read or none passes the filters."""
        if self.n_read == 0:
            return DataError(f"{self.source.name} holds no rows; name a file with at least one")
        if self.n_filtered_out > 0:
            return self.row_filter.explain_nothing_left(self.source.name)
        return no_row_left(self.quarantined, self.source.name)

    def _set_aside(self, number: int, part: Part, line: int, fault: Exception, *, row_id: str | None) -> None:
        self._quarantined[number] = QuarantinedRow(self.set_name, part.name, line, str(fault), row_id)


def _unused(head: Iterable[_Row], layout: Layout, row_filter: RowFilter, options: SourceOptions) -> tuple[str, ...]:
    asked_for = {*layout.used, *row_filter.columns, options.id_column}
    return tuple(unused_text([row.columns for row in head], asked_for))


def _explain_unused(unused: Sequence[str], source: str) -> list[str]:
    """Returns the warning on columns that hold text which nobody asked for, if there are any."""
    if not unused:
        return []
    names, plural = ", ".join(map(shown, unused)), len(unused) > 1
    return [
        f"{source}: column{'s' * plural} {names} hold{'s' * (not plural)} text and {'are' if plural else 'is'} not used"
    ]


def _check_used(row: _Row, layout: Layout) -> None:
    """Refuses a row that lacks a value which is read; an optional column may be null as a whole.

    Raises:
        RowFault: It does.
    """
    for column in row.gaps.keys() & layout.used:
        if column in layout.required or row.columns[column] is not None:
            raise RowFault(row.gaps[column])


def own_id(row: Mapping[str, Any], column: str) -> str | None:
    """Returns the user's own id of a row; None where the column is missing, null or blank, or ids are ignored.

    Raises:
        RowFault: It is neither text nor a whole number, or too long.
    """
    value = None if column == NO_ID_COLUMN else row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes 1.0 of 1 where another row has no id
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowFault(f"an id that is neither text nor a whole number: {json_type(value)}")
    own = str(value)
    if len(own) > _LONGEST_ID:
        raise RowFault(f"an id of over {_LONGEST_ID} characters")
    return own
