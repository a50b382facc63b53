"""What the sentinels of a run chose and measured, as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import RunFolder
from sotune.errors import ConfigError
from sotune.methods import Weighing
from sotune.run_files import SENTINEL_SUMMARY, SENTINELS
from sotune.sentinels import Tried
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


def write_sentinels(
    run: RunFolder, weighing: Weighing, *, safe_ids: Sequence[str], harmful_ids: Sequence[str]
) -> list[str]:
    """Writes what sentinels measured: one line for each, and a summary.

    Args:
        run: Where to.
        weighing: What the method made of the rows.
        safe_ids: Ids of the anchor rows, in their order.
        harmful_ids: The same of the harmful reference.
    """
    sentinels = weighing.sentinels
    if sentinels is None:
        run.file(SENTINELS.name).unlink(missing_ok=True)  # an earlier solution's do not belong to these weights
        return [SENTINEL_SUMMARY.write(run, {"used": False, "note": weighing.note})]
    folds = sentinels.folds
    rows: list[tuple[str, str, float | None, float | None]] = [
        (harmful_ids[position], "measuring", score, None)
        for position, score in zip(folds.measuring, sentinels.harmful_scores.tolist(), strict=True)
    ]
    rows += [
        (harmful_ids[position], "tuning", None, place)
        for position, place in zip(folds.tuning, sentinels.tuning_outranked, strict=True)
    ]
    rows += [(id, "safe", None, place) for id, place in zip(safe_ids, sentinels.safe_outranked.tolist(), strict=False)]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(SENTINELS.columns)}
    summary: dict[str, Any] = {
        "used": True,
        "note": weighing.note,
        "n_reference": len(folds.reference),
        "n_tuning": len(folds.tuning),
        "n_measuring": len(folds.measuring),
        "n_unused": len(folds.unused),
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


def _tried(one: Tried) -> dict[str, Any]:
    return {**written_settings(one.settings), "auroc": one.auroc}


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
    if not SENTINEL_SUMMARY.read_if_there(run).get("used"):
        return None
    of_fold: dict[str, list[float]] = {"measuring": [], "tuning": [], "safe": []}
    for row in SENTINELS.rows_of(run, "fold", "score", "outranked"):
        of_fold[row["fold"]].append(row["score"] if row["fold"] == "measuring" else row["outranked"])
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
        note = SENTINEL_SUMMARY.read(run)["note"]
        raise ConfigError(f"a limit on harm needs sentinels. {note}; give a larger harmful reference, or keep a fraction")
    return found
