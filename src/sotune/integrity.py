"""What a file holds, by its SHA-256: files that must hold what was once written, and folders without a way out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import time
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from sotune.errors import ArtifactError

_WHOLE = 1 << 24
"""Bytes of a file up to which it is read once: what was checked in memory is what is parsed."""

_SETTLED_NS = 2_000_000_000
"""How long ago a file was touched whose time stamps tell the next touch apart: FAT's, the coarsest, are 2 s."""

_Identity = tuple[int, ...]
_MOST_KNOWN = 4096
_known: OrderedDict[_Identity, str] = OrderedDict()


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal.

    Every stage asks for that of models of many gigabytes, so a digest is remembered as long as the system says that
    nothing has touched the file. That is its change time, which no program can set back, beside size and inode; and
    only if it is old enough that a write at this moment would move it.
    """
    with path.open("rb") as file:
        return _digest(file)


@contextlib.contextmanager
def unchanged(path: Path, digests: Collection[str]) -> Iterator[IO[bytes]]:
    """Opens a file, if it is no link and holds what it must.

    Args:
        path: The file.
        digests: SHA-256 of its bytes, one of these; empty where nobody has noted it.

    Raises:
        ArtifactError: It holds something else, or is no ordinary file, or changes while it is read.
        OSError: It cannot be opened.
    """
    with _open_plain(path) as file:
        if os.fstat(file.fileno()).st_size <= _WHOLE:
            data = file.read()
            _check(path, digests, hashlib.sha256(data).hexdigest())
            yield io.BytesIO(data)
            return
        before = _identity(file)
        if digests:
            _check(path, digests, _digest(file))
            file.seek(0)
        yield file
        if _identity(file) != before:
            raise _changed(path)


class HeldFile:
    """A file that stays open and is read piece by piece, if it is no link and holds what it must.

    Args:
        path: The file.
        digests: SHA-256 of its bytes, one of these; empty where nobody has noted it.

    Raises:
        ArtifactError: It holds something else, or is no ordinary file.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, digests: Collection[str]) -> None:
        self.path, self.file = path, _open_plain(path)
        self._closed = weakref.finalize(self, self.file.close)
        self._before = _identity(self.file)
        if digests:
            _check(path, digests, _digest(self.file))

    def check(self) -> None:
        """Raises an ArtifactError where something has touched the file since it was opened; ask after each read."""
        if _identity(self.file) != self._before:
            raise _changed(self.path)


def _changed(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} was changed while it was read; run again when nothing else writes to it")


def is_unchanged(path: Path, digest: str) -> bool:
    """Tells whether a file is there, is no link, and holds what it must."""
    try:
        with _open_plain(path) as file:
            return _digest(file) == digest
    except (OSError, ArtifactError):
        return False


def check_contained(folder: Path) -> None:
    """Raises an ArtifactError where a folder holds a link, a device or a pipe: all in it must be its own."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    waiting.append(Path(entry.path))
                elif not stat.S_ISREG(mode):
                    kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    raise ArtifactError(
                        f"{entry.path} is {kind}, and what a run folder holds must lie in it; remove it, or replace it "
                        f"by what it leads to"
                    )


def _open_plain(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading without following a link to it, or waiting for the other end of a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):  # not every system has each
        flags |= getattr(os, name, 0)
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link, and no link out of a run folder is followed; remove it")
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ArtifactError(f"{path} is not an ordinary file; remove it and run again")
    return file


def _check(path: Path, wanted: Collection[str], found: str) -> None:
    if wanted and found not in wanted:
        raise ArtifactError(
            f"{path} is not what was written (SHA-256 {found[:12]}, must be {next(iter(wanted))[:12]}): it was changed "
            f"or damaged since; restore it, or run the command that writes it again"
        )


def _digest(file: io.BufferedReader) -> str:
    identity, now = _identity(file), time.time_ns()
    if identity in _known:
        return _known[identity]
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _is_settled(identity, now) and _identity(file) == identity:
        _known[identity] = digest
        if len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    return digest


def _identity(file: io.BufferedReader) -> _Identity:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(identity: _Identity, now: int) -> bool:
    # Elsewhere st_ctime is the time of creation, which tells nothing of a change.
    return os.name == "posix" and now - max(identity[-2:]) > _SETTLED_NS
