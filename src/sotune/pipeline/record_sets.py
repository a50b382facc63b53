"""First stage: data files to records, with every unreadable row accounted for."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sotune.artifacts import RunFolder, TableWriter, sha256_file
from sotune.errors import DataError
from sotune.models import model_fingerprint
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.stage import Figures, Stage
from sotune.record_store import Deferred, Keep, Picked, RecordWriter, digests_as_array, ids_of, open_records
from sotune.records import SET_NAMES, Record, SetName, load_messages
from sotune.rendering import Trial, load_renderer
from sotune.run_files import QUARANTINE, READING, RECORDS, SELECTION
from sotune.settings import DataSettings, RenderingSettings, RunConfig, SourceSettings
from sotune.sources import LoadedSet, SourceOptions, choose_side, load_set, source_files
from sotune.wording import counted


@dataclass(frozen=True)
class OwnRow:
    """A row as the user's file has it, and where that is."""

    row: Mapping[str, Any]
    origin: str


def read_records(run: RunFolder, *names: SetName) -> dict[SetName, Sequence[Record]]:
    """Returns the texts of record sets of a run, those that are encoded unless some are named.

    They are read as they are asked for. The user's own rows, which may tell what is harmful, stay where they are; see
    `read_own_rows`.
    """
    return open_records(run.path, *(names or SET_NAMES))


def read_kept(run: RunFolder) -> tuple[Sequence[Record], dict[str, float]]:
    """Returns the texts of the rows that are trained on, read as they are asked for, and their loss weights by id."""
    weights = {
        row["id"]: row["loss_weight"] for row in SELECTION.rows_of(run, "id", "loss_weight", where={"kept": [True]})
    }
    records = read_records(run, "downstream")["downstream"]
    places = [place for place, id in enumerate(ids_of(records)) if id in weights]
    return Picked(records, np.array(places, dtype=np.int64)), weights


def read_some_records(run: RunFolder, name: SetName, ids: Sequence[str]) -> list[Record]:
    """Reads the texts of some rows of a set of a run."""
    rows = RECORDS.rows_of(run, "id", "messages", "tools", where={"set": [name], "id": ids})
    return [Record(row["id"], load_messages(row["messages"]), row["tools"]) for row in rows]


def read_own_rows(run: RunFolder) -> Iterator[tuple[str, OwnRow]]:
    """Yields the user's own downstream rows, each with its id, in their order."""
    for row in RECORDS.rows_of(run, "id", "row", "origin", where={"set": ["downstream"]}):
        yield row["id"], OwnRow(json.loads(row["row"]), row["origin"])


def kind_of(config: RunConfig, own: OwnRow) -> str:
    """Returns what a row is, by the column that says so."""
    return sys.intern(str(own.row.get(config.truth_column or "", "unknown")))


def kinds_of(config: RunConfig, run: RunFolder) -> dict[str, str]:
    """Returns what each row is, by id; nothing where no column says so."""
    return {} if config.truth_column is None else {id: kind_of(config, own) for id, own in read_own_rows(run)}


def source_options(config: RunConfig, name: SetName) -> SourceOptions:
    """Returns how one of the sets is to be read."""
    shared = SourceOptions(
        id_column=config.id_column,
        learn_turns=config.learn_turns,
        max_row_bytes=config.max_row_bytes,
        max_rows=config.max_rows,
        max_expansion=config.max_expansion,
    )
    if name == "safety_pairs":
        return shared
    if name == "downstream":
        return downstream_options(config)
    own = ("format", "where", "prompt_column", "completion_column")
    given = {option: getattr(config, f"{PREFIXES[name]}_{option}") for option in own}
    return replace(shared, **given, flags=f"--{PREFIXES[name].replace('_', '-')}-")


PREFIXES: dict[SetName, str] = {
    "safe_anchor": "safe",
    "harmful_reference": "harmful",
    "safe_reference": "safe_reference",
}
"""What a reference is called in settings and columns that are about it."""


def downstream_options(settings: SourceSettings) -> SourceOptions:
    """Returns how the downstream rows are to be read."""
    return SourceOptions(
        format=settings.format,
        where=settings.where,
        id_column=settings.id_column,
        prompt_column=settings.prompt_column,
        completion_column=settings.completion_column,
        conversation_column=settings.conversation_column,
        system_column=settings.system_column,
        learn_turns=settings.learn_turns,
        split=settings.split,
        subset=settings.subset,
        revision=settings.data_revision,
        limit=settings.limit,
        max_row_bytes=settings.max_row_bytes,
        max_rows=settings.max_rows,
        max_expansion=settings.max_expansion,
    )


def _key(config: RunConfig) -> dict[str, Any]:
    settings = config.part(DataSettings).model_dump(mode="json")
    inputs = {name: _source_digest(source, source_options(config, name)) for name, source in _sources(config).items()}
    key: dict[str, Any] = {"settings": settings, "inputs": inputs}
    if config.model is not None:  # what the model's template refuses is not read
        key["rendering"] = config.part(RenderingSettings).model_dump(mode="json")
        key["model"] = model_fingerprint(base_model(config))
    return key


def _sources(config: RunConfig) -> dict[SetName, str]:
    sources: dict[SetName, str | None] = {
        "downstream": config.data,
        "safe_anchor": config.safe_anchor,
        "harmful_reference": config.harmful_reference,
        "safe_reference": config.safe_reference,
        "safety_pairs": config.safety_pairs,
    }
    return {name: source for name, source in sources.items() if source is not None}


def _of_side(config: RunConfig, source: str, name: SetName) -> tuple[str, SourceOptions]:
    """Returns where a set is read from, and how: its side, of a source that holds both references."""
    options = source_options(config, name)
    if config.safe_reference != config.harmful_reference or name not in ("harmful_reference", "safe_reference"):
        return source, options
    return choose_side(source, options, "harmful" if name == "harmful_reference" else "safe")


def _source_digest(source: str, options: SourceOptions) -> Any:
    path = Path(source)
    if path.is_file():
        return sha256_file(path)
    if (files := source_files(source, options)) is not None:
        return {str(file): sha256_file(file) for file in files.files}
    if path.is_dir():
        return {str(p.relative_to(path)): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return source


def read_sources(
    config: RunConfig, monitor: Monitor, keep: Callable[[SetName], Keep], trial: Trial | None = None
) -> dict[SetName, LoadedSet]:
    """Reads all sets that the settings name.

    Args:
        config: The settings.
        monitor: Receives progress.
        keep: Where the records of a set are kept.
        trial: Renders each row, and refuses those that cannot be; ``None``: all that can be read are taken.

    Raises:
        DataError: A set cannot be read, or too few of its rows.
    """
    sets: dict[SetName, LoadedSet] = {}
    for name, source in _sources(config).items():
        found, options = _of_side(config, source, name)
        sets[name] = load_set(
            found,
            set_name=name,
            options=options,
            max_quarantine_fraction=config.max_quarantine_fraction,
            progress=partial(_report_reading, monitor, name),
            check=trial,
            keep=keep(name),
        )
    return sets


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    trial = None if config.model is None else Trial(load_renderer(base_model(config), config))
    with RECORDS.writing(run) as table:
        written = _Written(config, table)
        sets = read_sources(config, monitor, written.keep, trial)
        table.close()
        _check_truth_column(sets["downstream"].records, config.truth_column, found=written.has_truth)
        quarantined = [row for loaded in sets.values() for row in loaded.quarantined]
        # Before the sets are checked: whoever has too few rows left wants to see which could not be read.
        quarantine = QUARANTINE.write(run, (asdict(row) for row in quarantined))
        warnings = [note for loaded in sets.values() for note in loaded.warnings]
        warnings += check_sets(sets, config.min_reference_rows)
    warnings += [] if trial is None else trial.warnings()
    for message in warnings:
        monitor.warn(message)
    summary = {
        "sets": {name: _describe(sets[name], source) for name, source in _sources(config).items()},
        "quarantine_reasons": dict(Counter(row.kind for row in quarantined).most_common()),
        "rendering": None if trial is None else trial.as_dict(),
        "warnings": warnings,
    }
    return [RECORDS.name, READING.write(run, summary), quarantine]


class _Written:
    """Where records go as they are read: into the run's table, which can be read when it is closed."""

    def __init__(self, config: RunConfig, table: TableWriter) -> None:
        self._config, self._table, self._writer = config, table, RecordWriter(table)
        self.has_truth = False

    def keep(self, name: SetName) -> Keep:
        """Returns what takes the records of a set."""

        def keep(records: Iterable[Record]) -> Sequence[Record]:
            seen = self._looked_at(records) if name == "downstream" else records
            n = self._writer.add(name, seen)
            return Deferred(n, partial(self._read, name))

        return keep

    def _looked_at(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            check_weight_column(OwnRow(record.meta, record.origin), self._config.weight_column)
            self.has_truth = self.has_truth or self._config.truth_column in record.meta
            yield record

    def _read(self, name: SetName) -> Sequence[Record]:
        table = RECORDS.named(self._table.path.name)
        return open_records(self._table.path.parent, name, table=table, own=True)[name]


def _report_reading(monitor: Monitor, name: SetName, done: int) -> None:
    monitor.progress(f"reading {name}", done, None)


def check_sets(sets: Mapping[SetName, LoadedSet], min_reference_rows: int) -> list[str]:
    """Checks that the sets can be weighed against each other.

    Returns:
        Warnings: overlaps that are suspicious but not wrong.

    Raises:
        DataError: A reference is too small, or the harmful reference shares a row with one that is safe.
    """
    references = [name for name in PREFIXES if name in sets]
    for name in references:
        if len(sets[name].records) < min_reference_rows:
            raise DataError(
                f"the {name} has {counted(len(sets[name].records), 'usable row')}, fewer than "
                f"min_reference_rows={min_reference_rows}; add rows, or lower min_reference_rows if you accept noisier "
                f"weights"
            )
    for name in references:
        shared = [] if name == "harmful_reference" else _shared(sets[name], sets["harmful_reference"])
        if len(shared):
            ids, of = sorted(sets[name].records[place].id for place in shared), name.partition("_")[2]
            raise DataError(
                f"{counted(len(shared), 'row')} both in the {name.replace('_', ' ')} and in the harmful reference "
                f"({of} ids {ids[:5]}); a row cannot both pull and push: remove it from one of them"
            )
    found = []
    for name in references:
        if n_both := len(_shared(sets[name], sets["downstream"])):
            found.append(f"{counted(n_both, 'downstream row')} also in the {name.replace('_', ' ')}, word for word")
    return found


def _shared(one: LoadedSet, other: LoadedSet) -> list[int]:
    """Returns which records of a set are in another, too; of those with one content the last."""
    digests = digests_as_array(one.digests)[::-1]
    _, places, _ = np.intersect1d(digests, digests_as_array(other.digests), return_indices=True)
    return [len(digests) - 1 - int(place) for place in places]


def check_weight_column(own: OwnRow, weight_column: str) -> None:
    """Raises a DataError where a row has a column already of the name that kept.jsonl would add."""
    if weight_column in own.row:
        raise DataError(
            f"{own.origin}: the row has a column {weight_column!r} already, and nothing of yours is "
            f"overwritten; name another with --weight-column"
        )


def _check_truth_column(records: Sequence[Record], truth_column: str | None, *, found: bool) -> None:
    if truth_column is not None and not found:
        raise DataError(
            f"{records[0].origin}: neither this row nor any other has the column {truth_column!r} that truth_column "
            f"names; name one that says what a row is"
        )


def _describe(loaded: LoadedSet, source: str) -> dict[str, Any]:
    return {
        "source": Path(source).name,
        "format": loaded.format,
        "n_read": loaded.n_read,
        "n_valid": len(loaded.records),
        "n_quarantined": len(loaded.quarantined),
        "n_filtered_out": loaded.n_filtered_out,
        "n_duplicates": loaded.n_duplicates,
    }


def _summarize(run: RunFolder) -> Figures:
    summary = READING.read(run)
    sets, rendering = summary["sets"], summary["rendering"]
    figures = {name.replace("_", " "): counted(entry["n_valid"], "row") for name, entry in sets.items()}
    n_quarantined = sum(entry["n_quarantined"] for entry in sets.values())
    figures["quarantined"] = counted(n_quarantined, "row")
    return figures if rendering is None else {**figures, "template": rendering["template"]}


READ = Stage("records", "read", None, _key, _work, _summarize)
