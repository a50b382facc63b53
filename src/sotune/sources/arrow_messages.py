"""What an Arrow file says that it holds, from its messages, before any buffer of it is unpacked.

PyArrow unpacks all buffers of a batch at once and tells neither how many bytes they become nor, of a stream, how many
rows follow. Both stand in the file: the rows in the message of a batch, and how large a compressed buffer becomes in
its first eight bytes (Apache Arrow, *Columnar Format*, "Serialization and Interprocess Communication",
https://arrow.apache.org/docs/format/Columnar.html). A message is a FlatBuffer: tables whose fields a table of offsets
finds, and vectors of structs.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import IO, NamedTuple

MAGIC = b"ARROW1"
"""Begins and ends a file; a stream has none."""

_CONTINUES = 0xFFFFFFFF
_LEGACY_COMPRESSION = b"ARROW:experimental_compression"  # how files of 2020 say what a field says now
_DICTIONARY, _BATCH = 2, 3  # kinds of messages
_LONGEST_METADATA = 1 << 28


class Promise(NamedTuple):
    """What a batch says that it holds.

    Attributes:
        n_rows: Rows; none of a dictionary.
        n_bytes: Of its compressed buffers, unpacked.
    """

    n_rows: int
    n_bytes: int


class _Table:
    """A table of a FlatBuffer."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._offsets = at - self.read("<i", at)
        self._end = self.read("<H", self._offsets)

    def read(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("a place before its beginning")
        number: int = struct.unpack_from(form, self.data, at)[0]
        return number

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = self.read("<H", self._offsets + slot) if slot + 2 <= self._end else 0
        return self.at + offset if offset else None

    def number(self, form: str, field: int) -> int:
        place = self._place(field)
        return 0 if place is None else self.read(form, place)

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return None if place is None else _Table(self.data, place + self.read("<I", place))

    def structs(self, form: str, field: int) -> Iterator[tuple[int, ...]]:
        """Yields the structs of a vector."""
        place = self._place(field)
        if place is None:
            return
        start = place + self.read("<I", place)
        size, n = struct.calcsize(form), self.read("<I", start)
        if start + 4 + n * size > len(self.data):
            raise ValueError("more entries than bytes")
        yield from struct.iter_unpack(form, self.data[start + 4 : start + 4 + n * size])


def promises(file: IO[bytes]) -> Iterator[Promise]:
    """Yields what each batch and each dictionary of a file or stream says.

    A file is read by its list of batches, as its readers do, whatever else lies in it.

    Raises:
        ValueError: It is neither, or contradicts itself.
    """
    try:
        file.seek(0)
        if file.read(len(MAGIC)) == MAGIC:
            for at, length in _listed(file):
                yield from _promise(file, at, length)
            return
        following: int | None = 0
        while following is not None:
            following = yield from _promise(file, following, None)
    except struct.error as error:
        raise ValueError(f"cut short or damaged: {error}") from None


def _listed(file: IO[bytes]) -> list[tuple[int, int]]:
    """Returns place and length of the messages that the footer of a file lists."""
    end = file.seek(0, 2) - len(MAGIC) - 4
    file.seek(max(0, end))
    (length,) = struct.unpack("<i", file.read(4))
    if not 0 < length <= min(end, _LONGEST_METADATA) or file.read() != MAGIC:
        raise ValueError("no footer")
    file.seek(end - length)
    data = file.read(length)
    footer = _Table(data, *struct.unpack_from("<I", data))
    return [(at, size) for field in (2, 3) for at, size, _, _ in footer.structs("<qiiq", field)]


def _promise(file: IO[bytes], at: int, length: int | None) -> Generator[Promise, None, int | None]:
    """Yields what the message at a place says, if it holds values; returns where the next one begins, if any does."""
    file.seek(at)
    size, head = _number("<I", file), 4
    if size == _CONTINUES:
        size, head = _number("<I", file), 8
    if length is not None and length != head + size:
        raise ValueError("a batch that is listed with another length than it has")
    if size == 0:
        return None
    data = file.read(size) if size <= _LONGEST_METADATA else b""
    message = _Table(data, *struct.unpack_from("<I", data))
    kind, header, body = message.number("<B", 1), message.table(2), at + head + size
    batch = header.table(1) if header is not None and kind == _DICTIONARY else header
    if batch is not None and kind in (_DICTIONARY, _BATCH):
        packed = batch.table(3) is not None or _LEGACY_COMPRESSION in data
        n_bytes = sum(_unpacked(file, body + start) for start, n in batch.structs("<qq", 2) if n) if packed else 0
        yield Promise(batch.number("<q", 0) if kind == _BATCH else 0, n_bytes)
    after: int = body + message.number("<q", 3)
    if after < body:
        raise ValueError("a message of negative length")
    return after


def _unpacked(file: IO[bytes], at: int) -> int:
    """Returns how large the buffer at a place becomes; -1 there says that it is as it is."""
    file.seek(at)
    return max(0, _number("<q", file))


def _number(form: str, file: IO[bytes]) -> int:
    """Reads a number; 0 at the end of the file, as at the end of a stream."""
    size = struct.calcsize(form)
    number: int = struct.unpack(form, file.read(size).ljust(size, b"\0"))[0]
    return number
