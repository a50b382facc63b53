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
from pathlib import Path
from typing import IO, Any

from sotune.errors import DataError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")
"""Of compressed files. A file without one is decompressed too, if its content says so."""

MAX_UNPACKED_BYTES = 1 << 31
"""2 GiB: how much memory a compressed file that is not read from its start to its end may take."""

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),  # a block, or the end of an empty file
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to skip
}
_LFS_POINTER = b"version https://git-lfs"
_LONGEST_MAGIC = 32
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading, decompressed if its first bytes say that it is compressed, whatever its name.

    Raises:
        DataError: The file cannot be opened, is a Git LFS pointer, or its compressed data is cut short or damaged.
    """
    kind = None
    try:
        with path.open("rb") as file:
            kind = _compression(file.read(_LONGEST_MAGIC), path)
            file.seek(0)
            with file if kind is None else _DECOMPRESSORS[kind](file) as plain:
                yield plain
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
def open_seekable(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that is read at any place: a compressed one lies in memory.

    Raises:
        DataError: As `open_bytes`, or the file unpacks to too many bytes.
    """
    with open_bytes(path) as file:
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
