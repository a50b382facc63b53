"""Records that stay on disk: they are written as they are read, and read as they are asked for."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from sotune.artifacts import TABLE_ROWS, HeldTable, Table, TableWriter
from sotune.records import DIGEST_BYTES, Record, SetName, dump_messages, load_messages
from sotune.run_files import RECORDS

if TYPE_CHECKING:
    import pyarrow as pa

_PART_CHARACTERS = 1 << 23
"""Text of a part of the table: of longer rows it has fewer."""
_HELD_PARTS = 4
_TEXTS = ("id", "messages", "tools")
Keep = Callable[[Iterable[Record]], Sequence[Record]]
"""Takes records as they are read, all of them, and says where they are then."""
_OWN = (*_TEXTS, "row", "origin")
Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """A sequence whose items are made when they are asked for; a slice of it is one, too."""

    def one(self, place: int) -> Item:
        """Returns the item at a place, which is within the sequence."""
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return Picked(self, range(len(self))[place])
        return self.one(range(len(self))[place])

    def __iter__(self) -> Iterator[Item]:
        return (self.one(place) for place in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[list[Item]]]:
        return list, ([*self],)  # what another process gets is in memory


class Picked(LazySequence[Item]):
    """Some items of a sequence.

    Args:
        items: All of them.
        places: Where those that are meant stand.
    """

    def __init__(self, items: Sequence[Item], places: Sequence[int] | NDArray[np.int64]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def one(self, place: int) -> Item:
        """Returns the item at a place."""
        return self.items[int(self.places[place])]


class Joined(LazySequence[Item]):
    """Sequences one after another."""

    def __init__(self, parts: Iterable[Sequence[Item]]) -> None:
        self.parts = tuple(parts)
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def one(self, place: int) -> Item:
        """Returns the item at a place."""
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.parts[number][place - int(self._starts[number])]

    def __iter__(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self.parts)


class Deferred(LazySequence[Item]):
    """A sequence whose length is known before it can be read.

    Args:
        n: Its length.
        read: Returns it.
    """

    def __init__(self, n: int, read: Callable[[], Sequence[Item]]) -> None:
        self._n, self._read = n, read

    def __len__(self) -> int:
        return self._n

    def one(self, place: int) -> Item:
        """Returns the item at a place."""
        return self._found[place]

    @functools.cached_property
    def _found(self) -> Sequence[Item]:
        return self._read()


class Texts(LazySequence[str]):
    """A column of texts, in their bytes and four more each."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    @classmethod
    def of(cls, parts: Iterable[pa.ChunkedArray]) -> Texts:
        """Returns the texts of several columns, one after another."""
        import pyarrow as pa

        return cls(pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string()))

    def __len__(self) -> int:
        return len(self._column)

    def one(self, place: int) -> str:
        """Returns the text at a place."""
        return str(self._column[place].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            for start in range(0, len(chunk), TABLE_ROWS):
                yield from chunk.slice(start, TABLE_ROWS).to_pylist()


class RecordSequence(LazySequence[Record]):
    """Records that are made when they are asked for; their ids can be had without."""

    def ids(self) -> Sequence[str]:
        """Returns the ids, in their order."""
        raise NotImplementedError


class StoredRecords(RecordSequence):
    """Neighboring rows of a table of records; a few thousand of them are in memory at once."""

    def __init__(self, parts: _Parts, rows: range) -> None:
        self._parts, self._rows = parts, rows

    def __len__(self) -> int:
        return len(self._rows)

    def one(self, place: int) -> Record:
        """Returns the record at a place."""
        return self._parts.record(self._rows[place])

    def __iter__(self) -> Iterator[Record]:
        return map(self._parts.record, self._rows)

    def ids(self) -> Sequence[str]:
        """Reads the ids alone."""
        return Texts.of(self._parts.column("id", self._rows))


class _Parts:
    """The parts of a table of records, of which those that were read last are in memory."""

    def __init__(self, table: HeldTable, names: Sequence[str]) -> None:
        self._table, self._names = table, names
        self._starts = np.array(table.starts)
        self._held: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, row: int) -> Record:
        """Returns the record of a row of the table."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        columns, place = self._part(number), row - int(self._starts[number])
        id, messages, tools, *own = (columns[name][place].as_py() for name in self._names)
        turns = load_messages(messages)
        return Record(id, turns, tools, json.loads(own[0]), own[1]) if own else Record(id, turns, tools)

    def column(self, name: str, rows: range) -> Iterator[pa.ChunkedArray]:
        """Yields a column of some neighboring rows, part by part."""
        for number, (start, stop) in enumerate(itertools.pairwise(self._table.starts)):
            first, last = max(start, rows.start), min(stop, rows.stop)
            if first < last:
                yield self._table.part(number, name).column(name).slice(first - start, last - first)

    def _part(self, number: int) -> dict[str, Any]:
        with self._lock:
            if number not in self._held:
                part = self._table.part(number, *self._names)
                self._held[number] = {name: part.column(name).combine_chunks() for name in self._names}
            self._held.move_to_end(number)
            if len(self._held) > _HELD_PARTS:
                self._held.popitem(last=False)
            return self._held[number]


def open_records(
    folder: str | Path, *names: SetName, table: Table = RECORDS, own: bool = False
) -> dict[SetName, Sequence[Record]]:
    """Returns the records of some sets, read as they are asked for.

    Args:
        folder: Holds the table.
        names: The sets.
        table: The table.
        own: Whether records have the user's own rows, which may tell what is harmful, and their places.

    Raises:
        ArtifactError: The table is missing or is none.
    """
    held = table.hold(folder)
    parts, found = _Parts(held, _OWN if own else _TEXTS), _spans(held)
    return {name: StoredRecords(parts, found[name]) if name in found else () for name in names}


def _spans(table: HeldTable) -> dict[str, range]:
    """Returns which rows each set has, which stand together."""
    spans: dict[str, range] = {}
    for number, start in enumerate(table.starts[:-1]):
        runs = table.part(number, "set").column("set").combine_chunks().dictionary_encode()
        codes, names = runs.indices.to_numpy(zero_copy_only=False), runs.dictionary.to_pylist()
        for code, name in enumerate(names):
            places = np.flatnonzero(codes == code)
            first = spans[name].start if name in spans else start + int(places[0])
            spans[name] = range(first, start + int(places[-1]) + 1)
    return spans


def ids_of(records: Sequence[Record]) -> Sequence[str]:
    """Returns the ids of records, in their order; of records on disk nothing else is read."""
    if isinstance(records, RecordSequence):
        return records.ids()
    if isinstance(records, Joined):
        return Joined(map(ids_of, records.parts))
    if isinstance(records, Picked):
        return Picked(ids_of(records.items), records.places)
    return tuple(record.id for record in records)


def digests_as_array(digests: bytes | bytearray) -> NDArray[np.void]:
    """Returns digests that stand one after another as an array, ``[n]``, which can be sorted and compared."""
    return np.frombuffer(digests, dtype=f"V{DIGEST_BYTES}")


def n_distinct(digests: bytes | bytearray) -> int:
    """Returns how many different ones there are among digests that stand one after another."""
    return len(np.unique(digests_as_array(digests)))


class RecordWriter:
    """Writes records into a table as they come.

    Args:
        table: Writes the table.
    """

    def __init__(self, table: TableWriter) -> None:
        self._table = table

    def add(self, name: SetName, records: Iterable[Record]) -> int:
        """Writes the records of a set; returns how many there were."""
        n = 0
        for part in _parts_by_size(_row(name, record) for record in records):
            self._table.add({column: [row[column] for row in part] for column in part[0]})
            n += len(part)
        return n


def _row(name: SetName, record: Record) -> dict[str, str]:
    return {
        "set": name,
        "id": record.id,
        "messages": dump_messages(record.messages),
        "tools": record.tools,
        "row": json.dumps(dict(record.meta), ensure_ascii=True),
        "origin": record.origin,
    }


def _parts_by_size(rows: Iterable[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    part, n_characters = list[dict[str, str]](), 0
    for row in rows:
        part.append(row)
        n_characters += sum(map(len, row.values()))
        if len(part) == TABLE_ROWS or n_characters > _PART_CHARACTERS:
            yield part
            part, n_characters = [], 0
    if part:
        yield part


@contextlib.contextmanager
def kept_on_disk(folder: Path | None = None) -> Iterator[Keep]:
    """Yields what keeps records in a temporary file, from which they can be read until the block ends.

    Args:
        folder: Where to make it; ``None``: where the system does.
    """
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as made:

        def keep(records: Iterable[Record]) -> Sequence[Record]:
            table = RECORDS.named(f"{next(numbers)}.parquet")
            with table.writing(made) as writer:
                RecordWriter(writer).add("downstream", records)
            return open_records(made, "downstream", table=table, own=True)["downstream"]

        yield keep
