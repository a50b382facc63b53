"""Weighing rows that a run has never seen, with its saved potentials."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sotune import processes
from sotune.artifacts import Lines, RunFolder, contents_told, disk_faults_told
from sotune.errors import ArtifactError, ConfigError
from sotune.freshness import SCORED, require_fresh
from sotune.methods import method_named, method_of
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.encoding import encode_worst
from sotune.pipeline.record_sets import source_options
from sotune.pipeline.selecting import what_is_flagged, why_refused
from sotune.pipeline.worst_views import WorstRead
from sotune.record_store import kept_on_disk
from sotune.records import Record
from sotune.run_files import CONFIG, POTENTIALS, PROMISE, QUARANTINE, SCORES
from sotune.settings import RunConfig, SelectionSettings, make_config, override
from sotune.settings.evaluate import is_on_this_machine
from sotune.sources import QuarantinedRow, load_set
from sotune.weights import Scorer

_LINES = (".jsonl", ".ndjson")
_ROWS_AT_ONCE = 16_384  # whole blocks of the encoder's, so that its batches are those of all rows at once


@dataclass(frozen=True)
class ScoreSummary:
    """What scoring did.

    Attributes:
        file: The scores, one row for each valid row of the new data.
        quarantine: The rows that could not be read.
        n_scored: How many rows were scored.
        n_quarantined: How many could not be read.
        n_would_keep: How many the run's selection would keep.
    """

    file: str
    quarantine: str
    n_scored: int
    n_quarantined: int
    n_would_keep: int


def run_config(run: RunFolder, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns the configuration of a run, with some settings changed.

    Raises:
        ArtifactError: The folder holds none.
        ConfigError: A change is wrong.
    """
    given = {key: value for key, value in CONFIG.read(run).items() if value is not None}
    for who in ("judge", "server"):
        if not is_on_this_machine(given.get(f"{who}_base_url")):
            given.pop(f"{who}_key_env", None)  # a folder may come from anywhere, and must not say who is sent a key
    # A saved configuration spells every setting out, the defaults of what its own choices exclude too.
    given = override(given, {key: given[key] for key in ("k", "tau", "max_harmful_share") if key in given})
    if given.get("keep") == "auto":
        given = override(given, {"keep": "auto"})
    _check_trust(given, changes or {}, str(run.path))
    if "method" in (changes or {}):
        brought = method_named(given.get("method", "adaptive")).preset  # another method brings its own
        given = {key: value for key, value in given.items() if brought.get(key) != value}
    if {"method", "hold"} & set(changes or {}):
        given = _without_constants_of_others(given, changes or {})
    return make_config({**override(given, changes or {}), "out": str(run.path)}, origin=str(run.path))


def _check_trust(saved: Mapping[str, Any], changes: Mapping[str, Any], folder: str) -> None:
    """Refuses what a folder, which may come from anywhere, must not decide: whose code runs, and who is sent a key."""
    if saved.get("trust_remote_code") and not changes.get("trust_remote_code"):
        raise ConfigError(
            f"the settings in {folder} ask to run Python code that a model ships, and a folder may not decide that; if "
            f"you trust the model, continue with `sotune run` and settings of your own that say trust_remote_code"
        )


def _without_constants_of_others(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's saved settings without the constants, and the limit, of a method that is no longer its own."""
    kept = {key: value for key, value in given.items() if key not in ("method_settings", "hold_drift")}
    now = method_of(make_config({**override(kept, changes), "method_settings": {}}))
    known = {name for kind in now.own_settings for name in kind.model_fields}
    constants = {name: value for name, value in given.get("method_settings", {}).items() if name in known}
    limit = {"hold_drift": given["hold_drift"]} if now.limits_drift and "hold_drift" in given else {}
    return {**kept, **limit, "method_settings": constants}


def score(
    folder: str | Path, data: str, *, out: Path, where: tuple[str, ...] = (), monitor: Monitor | None = None
) -> ScoreSummary:
    """Scores new rows as the run would have weighed them; solves nothing.

    Args:
        folder: A run folder whose weights are solved.
        data: The new rows: a file, a folder or pattern of files, or a Hub id.
        out: The file to write, Parquet or, where its name ends in ``.jsonl``, JSON lines: id, weight, relative_weight
            (1 is the run's mean), would_keep with the reason, unknown, unread and potentials.
        where: COLUMN=VALUE filters on the new rows.
        monitor: Receives progress.

    Raises:
        ArtifactError: The folder is no run or another process's, or its weights cannot be extended.
        DataError: The new rows cannot be read.
        ConfigError: The file is there and holds no scores.
    """
    run = RunFolder.open(Path(folder))
    config = run_config(run)

    def help_encoding(records: Sequence[Record]) -> None:
        encode_worst(config, run, records, Silent())

    def work() -> ScoreSummary:
        # Scoring writes: into the cache, and by default beside the artefacts.
        with run.lock(), disk_faults_told(run.path):
            return _score(run, config, data, out=out, where=where, watch=monitor or Silent())

    return processes.lead(work, {"scoring": help_encoding})


def _score(
    run: RunFolder, config: RunConfig, data: str, *, out: Path, where: tuple[str, ...], watch: Monitor
) -> ScoreSummary:
    require_fresh(run, "weights", "selection")
    _check_target(out)
    scorer = load_potentials(run, config)
    options = replace(source_options(config, "downstream"), where=where, limit=None)
    with kept_on_disk(run.path) as keep:
        loaded = load_set(
            data,
            set_name="downstream",
            options=options,
            max_quarantine_fraction=config.max_quarantine_fraction,
            remedy="leave them out: how many may be is a setting of the run",
            progress=lambda done: watch.progress("reading", done, None),
            keep=keep,
        )
        for message in loaded.warnings:
            watch.warn(message)
        counts = Counter[bool]()
        quarantine = out.with_suffix(".quarantine.jsonl")
        _write(run, out, _scored(run, config, scorer, loaded.records, counts, watch), quarantine, loaded.quarantined)
    return ScoreSummary(
        file=str(out),
        quarantine=str(quarantine),
        n_scored=counts.total(),
        n_quarantined=len(loaded.quarantined),
        n_would_keep=counts[True],
    )


def _scored(
    run: RunFolder,
    config: RunConfig,
    scorer: Scorer,
    records: Sequence[Record],
    counts: Counter[bool],
    watch: Monitor,
) -> Iterator[dict[str, Any]]:
    """Yields the columns of some rows, part by part; counts those that would be kept, and would not."""
    cut = read_cut(run)
    for start in range(0, len(records), _ROWS_AT_ONCE):
        part = records[start : start + _ROWS_AT_ONCE]
        read = processes.together("scoring", functools.partial(encode_worst, config, run, part, watch), part)
        columns = score_rows(config, scorer, cut, part, read)
        counts.update(columns["would_keep"])
        yield columns


def score_rows(
    config: SelectionSettings, scorer: Scorer, cut: float, records: Sequence[Record], read: WorstRead
) -> dict[str, list[Any]]:
    """Returns what a run says of rows that it has never seen: the columns of `sotune.run_files.SCORES`.

    Args:
        config: Says which rows the run drops whatever they weigh.
        scorer: Its potentials.
        cut: The least weight that it keeps.
        records: The rows.
        read: What was read of them.
    """
    found = scorer.score(read.values)
    weights, unknown, unread = found.weights.double(), found.unknown.tolist(), read.unread.tolist()
    decided = [_decide(config, *row, cut=cut) for row in zip(weights.tolist(), unknown, unread, strict=True)]
    return {
        "id": [record.id for record in records],
        "weight": weights.tolist(),
        "relative_weight": (weights * scorer.n).tolist(),
        "would_keep": [keep for keep, _ in decided],
        "reason": [reason for _, reason in decided],
        "unknown": unknown,
        "unread": unread,
        "pull_potential": found.pull_potential.double().tolist(),
        "push_potential": found.push_potential.double().tolist(),
    }


def _check_target(out: Path) -> None:
    """Refuses to write over a file that holds something else than scores, such as the rows themselves."""
    import pyarrow.parquet as pq

    if out.name == SCORES.name or not out.exists():
        return
    try:
        if out.suffix in _LINES:
            with out.open("rb") as lines:
                first = lines.readline(1 << 20)
            names = json.loads(first or '{"weight": 0, "would_keep": 0}')
        else:
            names = pq.read_schema(out).names
    except (OSError, ValueError):  # those of pyarrow are one or the other
        names = ()
    if not {"weight", "would_keep"} <= {*names}:
        raise ConfigError(f"{out} is there and holds no scores; name another file for them (--scores)")


def _decide(config: SelectionSettings, weight: float, unknown: bool, unread: bool, *, cut: float) -> tuple[bool, str]:
    """Returns whether the run's selection would keep a row, and why, in words."""
    if refused := why_refused(config, unknown=unknown, unread=unread):
        return False, f"dropped: {refused}"
    told = what_is_flagged(config, unknown=unknown, unread=unread)
    if weight >= cut:
        return True, f"kept: it weighs no less than the last row within the run's cut{told}"
    return False, f"dropped: it weighs less than all rows within the run's cut{told}"


def _write(
    run: RunFolder,
    out: Path,
    parts: Iterator[Mapping[str, Any]],
    quarantine: Path,
    quarantined: Sequence[QuarantinedRow],
) -> None:
    """Writes the scores; those that lie in the run are noted there, so that they are known to be stale one day."""
    if out.suffix in _LINES:
        Lines(out.name, verb=SCORES.verb).write(out.parent, (row for part in parts for row in _rows(part)))
    else:
        SCORES.named(out.name).write_parts(out.parent, parts)
    QUARANTINE.named(quarantine.name).write(out.parent, map(asdict, quarantined))
    if out.parent.resolve() == run.path.resolve():
        made_from = {**run.digests("weights"), **run.digests("selection")}
        run.commit(SCORED, {"upstream": made_from}, [out.name, quarantine.name])


def _rows(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def load_potentials(run: RunFolder, config: RunConfig) -> Scorer:
    """Reads what unseen rows are weighed with.

    Raises:
        ArtifactError: The run has none.
    """
    if not run.file(POTENTIALS).exists():
        raise ArtifactError(
            f"{run.file(POTENTIALS)} is missing: method {config.method}, or its solver, leaves none; score with a "
            "run of a method that solves a transport problem, like adaptive"
        )
    with contents_told(run.path):
        return Scorer.load(run.checked(POTENTIALS))


def read_cut(run: RunFolder) -> float:
    """Returns the weight at the run's cut; a relative 1e-6 below, so that its own rows pass again."""
    return float(PROMISE.read(run)["cut"]) * (1 - 1e-6)
