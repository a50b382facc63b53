"""Files as bytes and lines: gzip by content, byte-order marks, and a cap on the length of a line."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sotune.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading, decompressed if its first bytes are those of gzip, whatever its name.

    Raises:
        DataError: The file cannot be opened, or its compressed data is cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not zipped:
                yield file
                return
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield unzipped  # type: ignore[misc]  # typeshed: GzipFile is not declared an IO[bytes]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the gzip data is cut short or damaged ({error}); copy or download the file again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


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
