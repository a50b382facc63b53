"""Files as bytes and lines: decompressed by content, byte-order marks, and a cap on the length of a line."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sotune.errors import DataError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")
"""Of compressed files. A file without one is decompressed too, if its content says so."""

MAX_UNPACKED_BYTES = 1 << 31
"""2 GiB: how much memory a compressed file that is not read from its start to its end may take."""

FREE_BYTES = 1 << 28
"""256 MiB: what a file may hold however small it is."""

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),  # a block, or the end of an empty file
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to skip
}
_LFS_POINTER = b"version https://git-lfs"
_LONGEST_MAGIC = 32
_CHUNK = 1 << 17
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a file may hold, so that no small one fills the memory.

    Attributes:
        max_expansion: How many times its own size, beyond `FREE_BYTES`.
        max_rows: How many rows, where the file itself says how many it has; None: any number.
    """

    max_expansion: int = 100
    max_rows: int | None = None

    def allowance(self, path: Path) -> Allowance:
        """Returns how much may be read from a file."""
        return Allowance(path, FREE_BYTES + self.max_expansion * path.stat().st_size)


DEFAULT_BOUNDS = Bounds()


@dataclass
class Allowance:
    """How many more bytes may come out of a file."""

    path: Path
    left: int

    def take(self, n_bytes: int) -> None:
        """Notes that so many were read.

        Raises:
            DataError: They are too many.
        """
        self.left -= n_bytes
        if self.left < 0:
            raise DataError(
                f"{self.path} holds far more than its size: over {FREE_BYTES} bytes and then over max_expansion times "
                f"its own; raise --max-expansion if you expect that"
            )


class _Counted(io.RawIOBase):
    """A decompressed file whose bytes count."""

    def __init__(self, file: IO[bytes], allowance: Allowance) -> None:
        self._file, self._allowance = file, allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._allowance.take(len(data))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def open_bytes(path: Path, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[IO[bytes]]:
    """Opens a file for reading, decompressed if its first bytes say that it is compressed, whatever its name.

    Raises:
        DataError: The file cannot be opened, is a Git LFS pointer, or its compressed data is cut short or damaged, or
            more than the bounds allow.
    """
    kind = None
    try:
        with path.open("rb") as file:
            kind = _compression(file.read(_LONGEST_MAGIC), path)
            file.seek(0)
            if kind is None:
                yield file
                return
            with _DECOMPRESSORS[kind](file) as plain:
                yield io.BufferedReader(_Counted(plain, bounds.allowance(path)), _CHUNK)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        # What the decompressors raise of themselves has no number of the operating system's.
        if kind is not None and getattr(error, "errno", None) is None:
            raise DataError(
                f"{path}: the {kind} data is cut short or damaged ({error}); copy or download the file again"
            ) from error
        raise DataError(
            f"{path} cannot be read ({getattr(error, 'strerror', error)}); check the path and its permissions"
        ) from error


@contextlib.contextmanager
def open_seekable(path: Path, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[IO[bytes]]:
    """Opens a file that is read at any place: a compressed one lies in memory.

    Raises:
        DataError: As `open_bytes`, or the file unpacks to too many bytes.
    """
    with open_bytes(path, bounds) as file:
        if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
            yield file
            return
        data = file.read(MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise DataError(f"{path} unpacks to over {MAX_UNPACKED_BYTES} bytes; unpack it by hand if that is expected")
        yield io.BytesIO(data)


def _compression(start: bytes, path: Path) -> str | None:
    if start.startswith(_LFS_POINTER):
        raise DataError(f"{path} is a Git LFS pointer and not the data itself; fetch it with git lfs pull")
    return next((kind for kind, magic in _MAGIC.items() if magic.match(start)), None)


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))


def lines(file: IO[bytes], path: Path, *, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    r"""Yields line number and line for each line that ends in ``\n``; None for one that is too long.

    The rest of a line that is too long is read past, never held, so that a small compressed file cannot fill
    the memory. A UTF-8 byte-order mark is dropped.

    Raises:
        DataError: The file starts with the mark of another encoding.
    """
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if number == 1:
            line = without_mark(line, path)
        if len(line) <= max_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(max_bytes)
        yield number, None


def without_mark(data: bytes, path: Path) -> bytes:
    """Returns the bytes of a file without its UTF-8 byte-order mark.

    Raises:
        DataError: They start with the mark of another encoding.
    """
    for mark, encoding in _WIDE_MARKS:
        if data.startswith(mark):
            raise DataError(
                f"{path} is written in {encoding}, and sotune reads UTF-8; convert it with iconv -f {encoding} -t UTF-8"
            )
    return data.removeprefix(codecs.BOM_UTF8)


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _open_zstd,
}
