"""How a run uses sentinels: the folds of its harmful reference, and what they choose and measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, read_json, read_parquet, write_json, write_parquet
from sotune.errors import ConfigError
from sotune.pipeline.record_sets import read_records
from sotune.settings import TUNED, RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sotune.sentinels import Choice, Folds, Grid, Guarded
    from sotune.weights import SolverSettings

SENTINELS, SENTINEL_SUMMARY = "sentinels.parquet", "sentinels.json"


@dataclass(frozen=True)
class Split:
    """The folds of a run, or why there are none.

    Attributes:
        folds: ``None`` where no sentinels are used.
        note: What the report says of it.
    """

    folds: Folds | None
    note: str


def split_reference(config: RunConfig, run: RunFolder) -> Split:
    """Splits the harmful reference of a run, unless it is too small or sentinels are off."""
    from sotune.sentinels import LEAST_SENTINELS, split_by_prompt

    if config.sentinels == "off":
        return Split(None, "sentinels are off: nothing was kept back, so nothing is measured and nothing promised")
    if config.solver == "adam_sharp":
        return Split(None, "no sentinels: the solver adam_sharp gives no function that could weigh unseen rows")
    records = read_records(run, "harmful_reference")["harmful_reference"]
    folds = split_by_prompt(
        ["\n".join(f"{m.role}: {m.content}" for m in record.prompt) for record in records],
        seed=config.seed,
        tuning_share=config.tuning_share,
        measuring_share=config.measuring_share,
    )
    least = min(len(folds.tuning), len(folds.measuring), len(folds.reference))
    if least < LEAST_SENTINELS:
        return Split(
            None,
            f"no sentinels: the harmful reference is too small to keep some back (folds of {len(folds.reference)}, "
            f"{len(folds.tuning)} and {len(folds.measuring)} rows, and each needs {LEAST_SENTINELS}); nothing is "
            f"measured and nothing promised",
        )
    return Split(folds, "")


def tuning_grid(config: RunConfig, default: Choice) -> Grid:
    """Returns what the tuning fold tries: of the settings that stand at their defaults, if any may be chosen."""
    from sotune.sentinels import Grid

    fields = RunConfig.model_fields
    values = {}
    for name, tried in TUNED.items():
        own = getattr(config, name) != fields[name].default or (name == "stretch" and config.cost != "adaptive")
        values[name] = (getattr(default, name),) if own or config.sentinels != "tune" else tried
    return Grid(**values)


def guard_choice(config: RunConfig, settings: SolverSettings) -> Choice:
    """Returns the point of the grid that the settings stand for."""
    from sotune.sentinels import Choice

    stretch = config.stretch if config.cost == "adaptive" else 0.0
    return Choice(settings.epsilon, settings.push_strength, settings.reference_relaxation, stretch)


def write_sentinels(run: RunFolder, split: Split, guarded: Guarded | None) -> list[str]:
    """Writes what sentinels measured: one line for each, and a summary."""
    if split.folds is None or guarded is None:
        run.file(SENTINELS).unlink(missing_ok=True)  # an earlier solution's do not belong to these weights
        write_json(run.file(SENTINEL_SUMMARY), {"used": False, "note": split.note})
        return [SENTINEL_SUMMARY]
    sets = read_records(run, "safe_anchor", "harmful_reference")
    harmful = [record.id for record in sets["harmful_reference"]]
    rows: list[tuple[str, str, float | None, float | None]] = [
        (harmful[position], "measuring", score, None)
        for position, score in zip(split.folds.measuring, guarded.harmful_scores.tolist(), strict=True)
    ]
    rows += [
        (harmful[position], "tuning", None, place)
        for position, place in zip(split.folds.tuning, guarded.tuned.outranked, strict=True)
    ]
    rows += [
        (record.id, "safe", None, place)
        for record, place in zip(sets["safe_anchor"], guarded.safe_outranked.tolist(), strict=False)
    ]
    names = ("id", "fold", "score", "outranked")
    write_parquet(
        run.file(SENTINELS),
        {name: [row[number] for row in rows] for number, name in enumerate(names)},
        schema={"id": "string", "fold": "string", "score": "float64", "outranked": "float64"},
    )
    tuned = guarded.tuned
    write_json(
        run.file(SENTINEL_SUMMARY),
        {
            "used": True,
            "note": split.note,
            "n_reference": len(split.folds.reference),
            "n_tuning": len(split.folds.tuning),
            "n_measuring": len(split.folds.measuring),
            "n_unused": len(split.folds.unused),
            "chosen": _tried(tuned.chosen),
            "default": _tried(tuned.default),
            "best": _tried(tuned.best),
            "gain_error": tuned.gain_error,
            "tried": [_tried(one) for one in tuned.tried],
        },
    )
    return [SENTINELS, SENTINEL_SUMMARY]


def _tried(one: Any) -> dict[str, Any]:
    choice = {name: getattr(one.choice, name) for name in TUNED}
    finite = {name: None if math.isinf(value) else value for name, value in choice.items()}
    return {**finite, "representation": one.candidate, "auroc": one.auroc}


@dataclass(frozen=True)
class SentinelScores:
    """What the sentinels of a run measured.

    Attributes:
        harmful: ``log(n·w)`` of each measuring sentinel, ``[k]``.
        tuning_outranked: For each tuning sentinel, the share of the downstream rows that weigh more.
        safe_outranked: The same for each anchor row, held out.
    """

    harmful: Tensor
    tuning_outranked: Sequence[float]
    safe_outranked: Tensor


def read_sentinels(run: RunFolder) -> SentinelScores | None:
    """Reads the sentinels of a run; ``None`` where it has none."""
    import torch

    if not run.file(SENTINEL_SUMMARY).exists() or not read_json(run.file(SENTINEL_SUMMARY))["used"]:
        return None
    columns = read_parquet(run.file(SENTINELS))
    of_fold: dict[str, list[float]] = {"measuring": [], "tuning": [], "safe": []}
    for fold, score, place in zip(columns["fold"], columns["score"], columns["outranked"], strict=True):
        of_fold[fold].append(score if fold == "measuring" else place)
    return SentinelScores(
        torch.tensor(of_fold["measuring"], dtype=torch.float64),
        of_fold["tuning"],
        torch.tensor(of_fold["safe"], dtype=torch.float64),
    )


def require_sentinels(run: RunFolder) -> SentinelScores:
    """Reads the sentinels of a run that must have some.

    Raises:
        ConfigError: It has none; says why.
    """
    found = read_sentinels(run)
    if found is None:
        summary = run.file(SENTINEL_SUMMARY)
        note = read_json(summary)["note"] if summary.exists() else "the weights are of an older version"
        raise ConfigError(f"keep auto needs sentinels. {note}; give a larger harmful reference, or keep a fraction")
    return found
