"""Public data sets under short names: the training and reference views of the catalogue, read from the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any, NamedTuple

from sotune.catalogue import DataSet, Source, data_set_names, load_data_set
from sotune.errors import DataError
from sotune.sources import hub
from sotune.sources.filters import RowFilter
from sotune.sources.rows import Flaw, RawRow


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
        for row in hub.read_hub(public.hub_id, split=split, subset=subset, revision=revision):
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
