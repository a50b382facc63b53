"""Weighing rows that a run has never seen, with its saved potentials."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, disk_faults_told
from sotune.errors import ArtifactError, ConfigError
from sotune.methods import method_named
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.encoding import encode_records
from sotune.pipeline.record_sets import source_options
from sotune.run_files import CONFIG, POTENTIALS, QUARANTINE, SCORES, SELECTION
from sotune.settings import RunConfig, make_config, override
from sotune.sources import load_set
from sotune.weights import Scorer


@dataclass(frozen=True)
class ScoreSummary:
    """What scoring did.

    Attributes:
        file: The scores, one row for each valid row of the new data.
        quarantine: The rows that could not be read.
        n_scored: How many rows were scored.
        n_quarantined: How many could not be read.
        n_would_keep: How many weigh at least as much as the last row that the run kept.
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
    if not _is_harmless(given.get("judge_base_url")):
        given.pop("judge_key_env", None)  # a folder may come from anywhere, and must not say who is sent a key
    # A saved configuration spells every setting out, the defaults of what its own choices exclude too.
    given = override(given, {key: given[key] for key in ("k", "tau", "max_harmful_share") if key in given})
    if given.get("keep") == "auto":
        given = override(given, {"keep": "auto"})
    _check_trust(given, changes or {}, str(run.path))
    if "method" in (changes or {}):
        brought = method_named(given.get("method", "adaptive")).preset  # another method brings its own
        given = {key: value for key, value in given.items() if brought.get(key) != value}
    return make_config({**override(given, changes or {}), "out": str(run.path)}, origin=str(run.path))


def _is_harmless(url: str | None) -> bool:
    """Tells whether a key that is sent there stays on this machine."""
    return urllib.parse.urlsplit(url or "").hostname in ("127.0.0.1", "localhost", "::1")


def _check_trust(saved: Mapping[str, Any], changes: Mapping[str, Any], folder: str) -> None:
    """Refuses what a folder, which may come from anywhere, must not decide: whose code runs, and who is sent a key."""
    if saved.get("trust_remote_code") and not changes.get("trust_remote_code"):
        raise ConfigError(
            f"the settings in {folder} ask to run Python code that a model ships, and a folder may not decide that; if "
            f"you trust the model, continue with `sotune run` and settings of your own that say trust_remote_code"
        )


def score(
    folder: str | Path, data: str, *, out: Path, where: tuple[str, ...] = (), monitor: Monitor | None = None
) -> ScoreSummary:
    """Scores new rows as the run would have weighed them; solves nothing.

    Args:
        folder: A run folder whose weights are solved.
        data: The new rows: a file, a folder or pattern of files, or a Hub id.
        out: The Parquet file to write: id, weight, relative_weight (1 is the run's mean), would_keep and potentials.
        where: COLUMN=VALUE filters on the new rows.
        monitor: Receives progress.

    Raises:
        ArtifactError: The folder is no run or another process's, or its weights cannot be extended.
        DataError: The new rows cannot be read.
    """
    run = RunFolder.open(Path(folder))
    with run.lock(), disk_faults_told(run.path):  # scoring writes: into the cache, and by default beside the artefacts
        return _score(run, data, out, where, monitor or Silent())


def _score(run: RunFolder, data: str, out: Path, where: tuple[str, ...], watch: Monitor) -> ScoreSummary:
    config = run_config(run)
    solved = run.manifest("weights")["key"].get("upstream")
    if solved != run.digests("representations"):
        raise ArtifactError(f"the weights of {run.path} belong to other representations; run `sotune weigh` again")
    if not run.file(POTENTIALS).exists():
        raise ArtifactError(
            f"{run.file(POTENTIALS)} is missing: method {config.method}, or its solver, leaves none; score with a "
            "run of a method that solves a transport problem, like adaptive"
        )
    scorer = Scorer.load(run.checked(POTENTIALS))
    options = replace(source_options(config, "downstream"), where=where, limit=None)
    loaded = load_set(
        data,
        set_name="downstream",
        options=options,
        max_quarantine_fraction=config.max_quarantine_fraction,
        progress=lambda done: watch.progress("reading", done, None),
    )
    for message in loaded.warnings:
        watch.warn(message)
    encoded = encode_records(config, run, loaded.records, watch)
    scores = scorer.score(encoded.values)
    cut = _cut(run)
    would_keep = [weight >= cut for weight in scores.weights.tolist()]
    columns = {
        "id": encoded.ids,
        "weight": scores.weights.double().numpy(),
        "relative_weight": (scores.weights.double() * scorer.n).numpy(),
        "would_keep": would_keep,
        "pull_potential": scores.pull_potential.double().numpy(),
        "push_potential": scores.push_potential.double().numpy(),
    }
    SCORES.named(out.name).write(out.parent, columns)
    quarantine = out.with_suffix(".quarantine.jsonl")
    QUARANTINE.named(quarantine.name).write(out.parent, map(asdict, loaded.quarantined))
    if out.parent.resolve() == run.path.resolve():
        run.commit(out.stem, {}, [out.name, quarantine.name])
    return ScoreSummary(
        file=str(out),
        quarantine=str(quarantine),
        n_scored=len(would_keep),
        n_quarantined=len(loaded.quarantined),
        n_would_keep=sum(would_keep),
    )


def _cut(run: RunFolder) -> float:
    """Returns the least weight that the run kept; a relative 1e-6 below, so that its own rows pass again."""
    kept = SELECTION.columns_of(run, "weight", where={"kept": [True]})["weight"]
    return float(min(kept)) * (1 - 1e-6)
