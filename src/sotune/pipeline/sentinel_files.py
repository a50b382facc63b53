"""What the sentinels of a run chose and measured, as files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import RunFolder
from sotune.errors import ConfigError
from sotune.methods import Weighing
from sotune.records import SetName
from sotune.run_files import SENTINEL_SUMMARY, SENTINELS
from sotune.sentinels import Sentinels, Tried
from sotune.settings import WeightSettings
from sotune.weights import cost_of, relaxation_of


def written_settings(settings: WeightSettings) -> dict[str, Any]:
    """Returns what may be chosen as it is written to files: as it was used, and ``None`` for infinite."""
    cost = cost_of(settings)
    relaxation = relaxation_of(settings, cost)
    return {
        "epsilon": settings.epsilon,
        "push_strength": settings.push_strength,
        "reference_relaxation": None if math.isinf(relaxation) else relaxation,
        **cost.state(),
    }


def write_sentinels(run: RunFolder, weighing: Weighing, ids_of: Mapping[SetName, Sequence[str]]) -> list[str]:
    """Writes what sentinels measured: one line for each, and a summary.

    Args:
        run: Where to.
        weighing: What the method made of the rows.
        ids_of: Ids of the rows of each reference, in their order.
    """
    sentinels = weighing.sentinels
    if sentinels is None:
        run.file(SENTINELS.name).unlink(missing_ok=True)  # an earlier solution's do not belong to these weights
        return [SENTINEL_SUMMARY.write(run, {"used": False, "note": weighing.note})]
    folds = sentinels.folds
    rows = _rows(sentinels, ids_of)
    columns = {name: [row[number] for row in rows] for number, name in enumerate(SENTINELS.columns)}
    summary: dict[str, Any] = {
        "used": True,
        "note": weighing.note,
        "n_reference": len(folds.reference),
        "n_tuning": len(folds.tuning),
        "n_measuring": len(folds.measuring),
        "n_unused": len(folds.unused),
        "n_safe_measuring": len(folds.safe.measuring) if folds.safe else 0,
    }
    if (tuned := sentinels.tuned) is not None:
        summary |= {
            "chosen": _tried(tuned.chosen),
            "default": _tried(tuned.default),
            "best": _tried(tuned.best),
            "gain_error": tuned.gain_error,
            "tried": [_tried(one) for one in tuned.tried],
        }
    return [SENTINELS.write(run, columns), SENTINEL_SUMMARY.write(run, summary)]


def _rows(
    sentinels: Sentinels, ids_of: Mapping[SetName, Sequence[str]]
) -> list[tuple[str, str, float | None, float | None]]:
    """Returns a line for each row that was kept back: id, fold, score and place."""
    folds, harmful_ids = sentinels.folds, ids_of["harmful_reference"]
    rows: list[tuple[str, str, float | None, float | None]] = [
        (harmful_ids[position], "measuring", score, None)
        for position, score in zip(folds.measuring, sentinels.harmful_scores.tolist(), strict=True)
    ]
    rows += [
        (harmful_ids[position], "tuning", None, place)
        for position, place in zip(folds.tuning, sentinels.tuning_outranked, strict=True)
    ]
    places = zip(ids_of["safe_anchor"], sentinels.safe_outranked.tolist(), strict=False)
    rows += [(id, "safe", None, place) for id, place in places]
    if folds.safe is not None and sentinels.safe_scores is not None:
        tuning = zip(folds.safe.tuning, sentinels.safe_tuning_outranked, strict=False)  # empty for other methods
        rows += [(ids_of["safe_reference"][position], "safe_tuning", None, place) for position, place in tuning]
        measured = zip(folds.safe.measuring, sentinels.safe_scores.tolist(), strict=True)
        rows += [(ids_of["safe_reference"][position], "safe_reference", score, None) for position, score in measured]
    return rows


def _tried(one: Tried) -> dict[str, Any]:
    return {**written_settings(one.settings), "auroc": one.auroc}


@dataclass(frozen=True)
class SentinelScores:
    """What the sentinels of a run measured.

    Attributes:
        harmful: ``log(n·w)`` of each measuring sentinel, ``[k]``.
        tuning_outranked: For each tuning sentinel, the share of the downstream rows that weigh more.
        safe_outranked: The same for each anchor row, held out.
        safe: ``log(n·w)`` of each row of the safe reference that measures; empty where there is none.
        safe_tuning_outranked: For each row of its tuning fold the share of the downstream rows that weigh more; empty
            likewise, and for methods whose first fit has seen it.
    """

    harmful: Tensor
    tuning_outranked: Sequence[float]
    safe_outranked: Tensor
    safe: Tensor
    safe_tuning_outranked: Sequence[float] = ()


def read_sentinels(run: RunFolder) -> SentinelScores | None:
    """Reads the sentinels of a run; ``None`` where it has none."""
    if not run.file(SENTINEL_SUMMARY.name).exists() or not SENTINEL_SUMMARY.read(run)["used"]:
        return None
    folds = ("measuring", "tuning", "safe", "safe_reference", "safe_tuning")
    of_fold: dict[str, list[float]] = {fold: [] for fold in folds}
    for row in SENTINELS.rows_of(run, "fold", "score", "outranked"):
        of_fold[row["fold"]].append(row["outranked"] if row["score"] is None else row["score"])
    found = {fold: torch.tensor(values, dtype=torch.float64) for fold, values in of_fold.items()}
    return SentinelScores(
        found["measuring"], of_fold["tuning"], found["safe"], found["safe_reference"], of_fold["safe_tuning"]
    )


def require_sentinels(run: RunFolder) -> SentinelScores:
    """Reads the sentinels of a run that must have some.

    Raises:
        ConfigError: It has none; says why.
    """
    found = read_sentinels(run)
    if found is None:
        note = SENTINEL_SUMMARY.read(run)["note"]
        raise ConfigError(
            f"a limit on harm needs sentinels. {note}; give a larger harmful reference, or keep a fraction"
        )
    return found
