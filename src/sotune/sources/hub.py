"""Hugging Face datasets: a name on the Hub, one of the catalogue, or a folder that ``datasets`` saved.

Never runs code from any of them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from sotune.catalogue import DataSet, Source, data_set_names, load_data_set
from sotune.errors import DataError, first_line
from sotune.sources import arrow
from sotune.sources.arrow_file import check_messages
from sotune.sources.filters import RowFilter
from sotune.sources.rows import Flaw, RawRow, check_columns, shown
from sotune.sources.shards import KINDS, suffix_of
from sotune.sources.streams import DEFAULT_BOUNDS, Bounds

PREFIX = "hf:"
_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".7z", ".rar"})
_MAX_STATE = 1 << 24  # bytes
_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NAME = re.compile(r"([\w.-]+/)?[\w.-]+")


def looks_like_hub_name(source: str) -> bool:
    """Tells whether a source that is no file may be a data set on the Hub: ``hf:…`` or ``owner/name``."""
    if source.startswith(PREFIX):
        return True
    in_a_folder_of_ours = Path(source).parent.is_dir()
    return bool(_OWNER_AND_NAME.fullmatch(source)) and not source.startswith(".") and not in_a_folder_of_ours


def is_saved_dataset(folder: Path) -> bool:
    """Tells whether a folder was written by ``save_to_disk`` of ``datasets``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, *, split: str, bounds: Bounds = DEFAULT_BOUNDS) -> Generator[RawRow, None, None]:
    """Yields the rows of a saved data set, or of one split of a saved dictionary of them.

    Raises:
        DataError: The folder cannot be read, has no such split, or a file of it says that it holds more than it may.
    """
    import datasets

    _check_saved(folder, bounds)
    with arrow.readable(str(folder), "a folder that save_to_disk of datasets wrote"):
        dataset = datasets.load_from_disk(str(folder))
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise DataError(
                f"{folder} has no split {split!r}; it has {', '.join(sorted(dataset))}: name it with --split"
            )
        dataset = dataset[split]
    yield from _rows(dataset, str(folder))


def _check_saved(folder: Path, bounds: Bounds) -> None:
    """Raises a DataError where a saved data set names files that lie elsewhere or hold more than they may."""
    for state in folder.rglob("state.json"):
        try:
            listed = json.loads(state.read_bytes()[:_MAX_STATE])["_data_files"]
            names = [str(entry["filename"]) for entry in listed]
        except (ValueError, KeyError, TypeError, RecursionError, OSError):
            raise DataError(f"{folder} is not a folder that save_to_disk of datasets wrote; save it again") from None
        if odd := [name for name in names if Path(name).name != name or (state.parent / name).is_symlink()]:
            raise DataError(f"{state} names a file elsewhere, {shown(odd[0])!r}; save the data set again")
        for path in filter(Path.is_file, map(state.parent.joinpath, names)):
            with path.open("rb") as file, arrow.readable(str(path), "a readable Arrow file or stream"):
                check_messages(file, path, bounds)


def _check_repository(name: str, revision: str | None) -> None:
    """Raises a DataError where a repository holds a script for loading it, or nothing but archives."""
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
    except (OSError, ValueError, RuntimeError):
        return  # offline, or no such data set: who loads it says so
    script = f"{name.rpartition('/')[2]}.py"
    archives = [file for file in files if Path(file).suffix in _ARCHIVES]
    plain = any(suffix_of(Path(file)) in KINDS for file in files)
    if script in files or (archives and not plain):
        what = f"a script, {script}" if script in files else f"an archive, {shown(archives[0])}"
        raise DataError(
            f"{shown(name)} is loaded by {what}, which is never run or unpacked; download it, look at it, and name its "
            f"files"
        )


def read_hub(source: str, *, split: str, subset: str | None, revision: str | None) -> Generator[RawRow, None, None]:
    """Yields the rows of one split of a data set on the Hub; of one folder of it, where the subset ends with a slash.

    Raises:
        DataError: The Hub cannot be reached, or has no such data set, subset, revision or split.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name = source.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise DataError(f"{shown(source)} names no data set on the Hub; write {PREFIX}owner/name")
    folder = {"data_dir": subset.rstrip("/")} if subset is not None and subset.endswith("/") else {}
    subset = None if folder else subset
    _check_repository(name, revision)
    try:
        dataset = datasets.load_dataset(name, subset, split=split, revision=revision, **folder)
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise DataError(
            f"{shown(source)} is neither a file here nor a data set on the Hub that can be read without logging in "
            f"({first_line(error)}); check the spelling and the revision"
        ) from error
    except OSError as error:  # what datasets raises without a network is a ConnectionError
        raise DataError(
            f"{shown(source)} is not a file here, and the Hugging Face Hub could not be reached: this machine may be "
            f"offline ({first_line(error)}); download the data set elsewhere and name its file, or the folder that "
            f"save_to_disk wrote"
        ) from error
    except (ValueError, RuntimeError, DatasetsError) as error:  # a script for loading it is a RuntimeError
        raise DataError(
            f"{shown(source)} cannot be loaded ({first_line(error)}); check --split and --subset"
        ) from error
    yield from _rows(dataset, source)


class NamedSource(NamedTuple):
    """A data set that sotune knows by name, and how its rows are read."""

    data_set: DataSet
    view: Source


class LicenceNotice(UserWarning):
    """Says under which licence the data stands that is about to be read."""


def named_source(name: str) -> NamedSource | None:
    """Returns what a name stands for, None where it is not known; only files of data sets that begin it are read.

    >>> named_source("lat-refusals").data_set.hub_id
    'LLM-LAT/harmful-dataset'
    """
    owners = [owner for owner in data_set_names() if name == owner or name.startswith(f"{owner}-")]
    found = (NamedSource(data, view) for data in map(load_data_set, owners) for view in data.sources)
    return next((source for source in found if source.view.name == name), None)


def source_names() -> list[str]:
    """Returns the names of all named sources, sorted."""
    return sorted(view.name for owner in data_set_names() for view in load_data_set(owner).sources)


def read_named(source: NamedSource, *, split: str | None, revision: str | None) -> Generator[RawRow, None, None]:
    """Yields the rows of a named source and says its licence.

    Args:
        source: What a name stands for.
        split: Another split than the usual one.
        revision: Another revision than the usual one.

    Raises:
        DataError: The Hub cannot be reached, or has no such data set, subset, revision or split.
    """
    public, view = source
    notice = f"{view.name} is {public.hub_id} on the Hugging Face Hub, licence: {public.licence}; {view.rows}"
    warnings.warn(notice, LicenceNotice, stacklevel=2)
    keep, line = RowFilter(view.where), 0
    split, revision = split or view.split, revision or public.revision
    for subset in view.subsets or (public.subset,):
        for row in read_hub(public.hub_id, split=split, subset=subset, revision=revision):
            line += 1
            if not isinstance(row.value, dict):
                yield RawRow(line, row.value)
            elif keep.keeps(row.value):
                yield RawRow(line, _read(view, row.value))


def _read(view: Source, row: dict[str, Any]) -> dict[str, Any] | Flaw:
    try:
        return view.read(row)
    except DataError as error:
        return Flaw(str(error))


def _rows(dataset: Any, source: str) -> Generator[RawRow, None, None]:
    check_columns(dataset.column_names, source)
    with arrow.readable(source, "a readable data set"):
        yield from arrow.table_rows(dataset.with_format("arrow").iter(batch_size=arrow.BATCH_ROWS))
