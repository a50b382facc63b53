"""First stage: data files to records, with every unreadable row accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, sha256_file
from sotune.errors import DataError
from sotune.models import model_fingerprint
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.stage import Figures, Stage
from sotune.records import SET_NAMES, Record, SetName, dump_messages, load_messages
from sotune.rendering import Trial, load_renderer
from sotune.run_files import QUARANTINE, READING, RECORDS
from sotune.settings import DataSettings, RenderingSettings, RunConfig, SourceSettings
from sotune.sources import LoadedSet, SourceOptions, choose_side, load_set, source_files


@dataclass(frozen=True)
class OwnRow:
    """A row as the user's file has it, and where that is."""

    row: Mapping[str, Any]
    origin: str


def read_records(run: RunFolder, *names: SetName, ids: Sequence[str] | None = None) -> dict[SetName, list[Record]]:
    """Reads the texts of record sets of a run, those that are encoded unless some are named, or of some rows.

    The user's own rows, which may tell what is harmful, stay where they are; see `read_own_rows`.
    """
    sets: dict[SetName, list[Record]] = {name: [] for name in names or SET_NAMES}
    where = {"set": sets} if ids is None else {"set": sets, "id": ids}
    for row in RECORDS.rows_of(run, "set", "id", "messages", "tools", where=where):
        sets[row["set"]].append(Record(row["id"], load_messages(row["messages"]), row["tools"]))
    return sets


def read_own_rows(run: RunFolder) -> dict[str, OwnRow]:
    """Reads the user's own downstream rows, by id."""
    rows = RECORDS.rows_of(run, "id", "row", "origin", where={"set": ["downstream"]})
    return {row["id"]: OwnRow(json.loads(row["row"]), row["origin"]) for row in rows}


def kinds_of(config: RunConfig, rows: Mapping[str, OwnRow]) -> dict[str, str]:
    """Returns what each row is, by id; nothing where no column says so."""
    if config.truth_column is None:
        return {}
    return {id: str(own.row.get(config.truth_column, "unknown")) for id, own in rows.items()}


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


def read_sources(config: RunConfig, monitor: Monitor, trial: Trial | None = None) -> dict[SetName, LoadedSet]:
    """Reads all sets that the settings name.

    Args:
        config: The settings.
        monitor: Receives progress.
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
        )
    return sets


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    trial = None if config.model is None else Trial(load_renderer(base_model(config), config))
    sets = read_sources(config, monitor, trial)
    own = [OwnRow(record.meta, record.origin) for record in sets["downstream"].records]
    check_weight_column(own, config.weight_column)  # before the long work, not after it
    _check_truth_column(own, config.truth_column)
    quarantined = [row for loaded in sets.values() for row in loaded.quarantined]
    # Before the sets are checked: whoever has too few rows left wants to see which could not be read.
    quarantine = QUARANTINE.write(run, (asdict(row) for row in quarantined))
    warnings = [note for loaded in sets.values() for note in loaded.warnings]
    warnings += check_sets({name: loaded.records for name, loaded in sets.items()}, config.min_reference_rows)
    warnings += [] if trial is None else trial.warnings()
    for message in warnings:
        monitor.warn(message)
    summary = {
        "sets": {name: _describe(sets[name], source) for name, source in _sources(config).items()},
        "quarantine_reasons": dict(Counter(row.kind for row in quarantined).most_common()),
        "rendering": None if trial is None else trial.as_dict(),
        "warnings": warnings,
    }
    return [_write_records(run, sets), READING.write(run, summary), quarantine]


def _report_reading(monitor: Monitor, name: SetName, done: int) -> None:
    monitor.progress(f"reading {name}", done, None)


def check_sets(sets: Mapping[SetName, Sequence[Record]], min_reference_rows: int) -> list[str]:
    """Checks that the sets can be weighed against each other.

    Returns:
        Warnings: overlaps that are suspicious but not wrong.

    Raises:
        DataError: A reference is too small, or the harmful reference shares a row with one that is safe.
    """
    references = [name for name in PREFIXES if name in sets]
    for name in references:
        if len(sets[name]) < min_reference_rows:
            raise DataError(
                f"the {name} has {len(sets[name])} usable rows, fewer than min_reference_rows={min_reference_rows}; "
                f"add rows, or lower min_reference_rows if you accept noisier weights"
            )
    content = {
        name: {(record.messages, record.tools): record.id for record in records} for name, records in sets.items()
    }
    for name in references:
        shared = content[name].keys() & content["harmful_reference"].keys() if name != "harmful_reference" else ()
        if shared:
            ids, of = sorted(content[name][key] for key in shared), name.partition("_")[2]
            raise DataError(
                f"{len(shared)} rows are both in the {name.replace('_', ' ')} and in the harmful reference "
                f"({of} ids {ids[:5]}); a row cannot both pull and push: remove it from one of them"
            )
    found = []
    for name in references:
        both = content["downstream"].keys() & content[name].keys()
        if both:
            found.append(f"{len(both)} downstream rows are also in the {name.replace('_', ' ')}, word for word")
    return found


def check_weight_column(rows: Iterable[OwnRow], weight_column: str) -> None:
    """Raises a DataError where a row has a column already of the name that kept.jsonl would add."""
    for own in rows:
        if weight_column in own.row:
            raise DataError(
                f"{own.origin}: the row has a column {weight_column!r} already, and nothing of yours is "
                f"overwritten; name another with --weight-column"
            )


def _check_truth_column(rows: Sequence[OwnRow], truth_column: str | None) -> None:
    if truth_column is not None and not any(truth_column in own.row for own in rows):
        raise DataError(
            f"{rows[0].origin}: neither this row nor any other has the column {truth_column!r} that truth_column "
            f"names; name one that says what a row is"
        )


def _write_records(run: RunFolder, sets: Mapping[SetName, LoadedSet]) -> str:
    rows = [(name, record) for name, loaded in sets.items() for record in loaded.records]
    columns = {
        "set": [name for name, _ in rows],
        "id": [record.id for _, record in rows],
        "messages": [dump_messages(record.messages) for _, record in rows],
        "tools": [record.tools for _, record in rows],
        "row": [json.dumps(dict(record.meta), ensure_ascii=True) for _, record in rows],
        "origin": [record.origin for _, record in rows],
    }
    return RECORDS.write(run, columns)


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
    figures = {name.replace("_", " "): f"{entry['n_valid']:,} rows" for name, entry in sets.items()}
    n_quarantined = sum(entry["n_quarantined"] for entry in sets.values())
    figures["quarantined"] = f"{n_quarantined:,} rows"
    return figures if rendering is None else {**figures, "template": rendering["template"]}


READ = Stage("records", "read", None, _key, _work, _summarize)
