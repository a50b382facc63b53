"""Which reader a source needs: by its suffix if it is a file, by its kind if it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sotune.catalogue import list_known
from sotune.errors import DataError
from sotune.sources import hub, shards
from sotune.sources.arrow_file import read_arrow, read_parquet
from sotune.sources.csv_file import read_csv
from sotune.sources.json_file import read_json
from sotune.sources.jsonl import read_jsonl
from sotune.sources.options import DEFAULT_SPLIT, SourceOptions
from sotune.sources.rows import RawRow, shown
from sotune.sources.streams import Bounds

Rows = Generator[RawRow, None, None]


class _Reader(Protocol):
    def __call__(self, path: Path, *, max_row_bytes: int, bounds: Bounds) -> Rows: ...


READERS: dict[str, _Reader] = {
    "JSON Lines": read_jsonl,
    "JSON": read_json,
    "CSV": partial(read_csv, delimiter=","),
    "TSV": partial(read_csv, delimiter="\t"),
    "Arrow": read_arrow,
    "Parquet": read_parquet,
}
_REFUSED = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), "is a spreadsheet; save it as CSV (UTF-8)"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt"),
        "is a pickle, which is never opened, since it could run code; save the rows as JSON Lines or Parquet",
    ),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "is an archive; unpack it and name the files in it"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source, or the whole of one that is no file.

    Attributes:
        name: What messages call it.
        rows: Its rows, read as they are asked for.
        path: The file; None for a data set, whose bytes are not one file.
    """

    name: str
    rows: Rows
    path: Path | None

    def place(self, line: int) -> str:
        """Returns ``name:line``."""
        return f"{self.name}:{line}"


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source about to be read.

    Attributes:
        name: What messages call it.
        parts: Its files, at least one, in the order in which they are read.
        notes: What the user should know about files that are missing or left out.
    """

    name: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def rows(self) -> Generator[tuple[Part, RawRow], None, None]:
        """Yields the rows of one part after the other."""
        for part in self.parts:
            with contextlib.closing(part.rows):
                for row in part.rows:
                    yield part, row


def open_source(source: str | Path, options: SourceOptions) -> OpenedSource:
    """Finds the reader of a source. Nothing is read yet, apart from what the file system says.

    Raises:
        DataError: The source is no file, folder of files, pattern that matches one, saved data set or possible Hub
            name, or is of an unknown kind.
    """
    name, path = str(source), Path(source)
    if not name.strip() or "://" in name:
        raise DataError(
            f"{name!r} is neither a file nor the name of a data set; download what stands at an address, and name "
            f"the file"
        )
    if name.startswith(hub.PREFIX):
        return _open_hub(name, options)
    if (files := source_files(source, options)) is not None:
        return OpenedSource(name, tuple(_open_file(file, options) for file in files.files), files.notes)
    if path.is_dir():
        return _whole(name, hub.read_saved(path, split=options.split, bounds=_bounds(options)))
    if (public := hub.named_source(name)) is not None:
        split = None if options.split == DEFAULT_SPLIT else options.split
        return _whole(name, hub.read_named(public, split=split, revision=options.revision))
    if shards.suffix_of(path) not in shards.KINDS and hub.looks_like_hub_name(name):
        return _open_hub(name, options)
    raise DataError(
        f"{name} does not exist; check the path, or write {hub.PREFIX}owner/name for a data set on the Hugging Face "
        f"Hub, or use a named source: {list_known(name, hub.source_names())}"
    )


def source_files(source: str | Path, options: SourceOptions) -> shards.Shards | None:
    """Returns the files that a source consists of; None where it is no file, folder of files or pattern.

    Args:
        source: The source.
        options: Which split of a folder or pattern is meant, and which folder in it.

    Raises:
        DataError: It is one, but cannot be read or holds no file of a known kind, or files of several kinds.
    """
    name, path = str(source), Path(source)
    try:
        if path.is_dir():
            return None if hub.is_saved_dataset(path) else shards.in_folder(_subset(path, options), split=options.split)
        if path.exists():
            _check_kind(path)
            return shards.Shards((path,), ())
        return shards.of_pattern(name, split=options.split) if shards.is_pattern(name) else None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); check the path and its permissions") from error


def _subset(folder: Path, options: SourceOptions) -> Path:
    chosen = folder / (options.subset or "")
    if not chosen.is_dir():
        raise DataError(f"{folder} has no folder {shown(str(options.subset))!r}, which --subset names; check the name")
    return chosen


def _check_kind(path: Path) -> None:
    suffix = shards.suffix_of(path)
    if suffix in _REFUSED:
        raise DataError(f"{path} {_REFUSED[suffix]}")
    if suffix not in shards.KINDS or not path.is_file():
        raise DataError(f"{path} is not a file of a known kind; known suffixes are {shards.SUFFIXES_TEXT}")


def _open_file(path: Path, options: SourceOptions) -> Part:
    reader = READERS[shards.KINDS[shards.suffix_of(path)]]
    return Part(str(path), reader(path, max_row_bytes=options.max_row_bytes, bounds=_bounds(options)), path)


def _bounds(options: SourceOptions) -> Bounds:
    # Who wants the first rows alone may take them from a file of any length.
    return Bounds(options.max_expansion, None if options.limit else options.max_rows)


def _open_hub(name: str, options: SourceOptions) -> OpenedSource:
    return _whole(name, hub.read_hub(name, split=options.split, subset=options.subset, revision=options.revision))


def _whole(name: str, rows: Rows) -> OpenedSource:
    return OpenedSource(name, (Part(name, rows, None),))
