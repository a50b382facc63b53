"""Which reader a source needs: by its suffix if it is a file, by its kind if it is not."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sotune.catalogue import list_known
from sotune.errors import DataError
from sotune.sources import hub
from sotune.sources.csv_file import read_csv
from sotune.sources.json_file import read_json
from sotune.sources.jsonl import read_jsonl
from sotune.sources.options import DEFAULT_SPLIT, SourceOptions
from sotune.sources.parquet import read_parquet
from sotune.sources.rows import RawRow

Rows = Generator[RawRow, None, None]


class _Reader(Protocol):
    def __call__(self, path: Path, *, max_row_bytes: int) -> Rows: ...


READERS: dict[str, _Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": partial(read_csv, delimiter=","),
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": lambda path, *, max_row_bytes: read_parquet(path),  # its rows are measured once read
}
_SUFFIXES = f"{', '.join(READERS)}, each also with .gz"


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source about to be read.

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


def open_source(source: str | Path, options: SourceOptions) -> OpenedSource:
    """Finds the reader of a source. Nothing is read yet, apart from what the file system says.

    Raises:
        DataError: The source is no file, saved data set or possible Hub name, or is of an unknown kind.
    """
    name, path = str(source), Path(source)
    if name.startswith(hub.PREFIX):
        return _open_hub(name, options)
    try:
        is_file, is_folder, exists = path.is_file(), path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); check the path and its permissions") from error
    reader = READERS.get(Path(name.lower().removesuffix(".gz")).suffix)
    if is_folder:
        if not hub.is_saved_dataset(path):
            raise DataError(f"{name} is a folder that `datasets` did not save; name one file: {_SUFFIXES}")
        return OpenedSource(name, hub.read_saved(path, split=options.split), None)
    if is_file and reader is not None:
        return OpenedSource(name, reader(path, max_row_bytes=options.max_row_bytes), path)
    if exists:
        raise DataError(f"{name} is not a file of a known kind; known suffixes are {_SUFFIXES}")
    if (public := hub.named_source(name)) is not None:
        split = None if options.split == DEFAULT_SPLIT else options.split
        return OpenedSource(name, hub.read_named(public, split=split, revision=options.revision), None)
    if reader is None and hub.looks_like_hub_name(name):
        return _open_hub(name, options)
    raise DataError(
        f"{name} does not exist; check the path, or write {hub.PREFIX}owner/name for a data set on the Hugging Face "
        f"Hub, or use a named source: {list_known(name, hub.source_names())}"
    )


def _open_hub(name: str, options: SourceOptions) -> OpenedSource:
    rows = hub.read_hub(name, split=options.split, subset=options.subset, revision=options.revision)
    return OpenedSource(name, rows, None)
