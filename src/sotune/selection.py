"""Which rows are kept, how strongly each counts in training, and why a row was dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sotune.errors import ConfigError, DataError

LossWeightRule = Literal["proportional", "exp", "uniform"]
LOSS_WEIGHT_RULES: tuple[LossWeightRule, ...] = ("proportional", "exp", "uniform")


@dataclass(frozen=True, slots=True)
class SelectedRow:
    """The decision about one row.

    Attributes:
        id: The row.
        weight: Its learned weight, on the simplex.
        rank: 1 for the largest weight; ties go by id.
        kept: Whether it is trained on.
        loss_weight: Its weight in the loss, with mean 1 over the kept rows; ``None`` when dropped.
        reason: The decision in words.
    """

    id: str
    weight: float
    rank: int
    kept: bool
    loss_weight: float | None
    reason: str


def keep_count(n: int, *, keep_fraction: float, k: int | None = None) -> int:
    """Returns how many of ``n`` rows are kept: ``k``, or ``floor(keep_fraction · n)`` (the paper's K, §4.2).

    Raises:
        ConfigError: The fraction is outside (0, 1], or so small that nothing would be kept, or ``k`` is below 1.
        DataError: ``k`` exceeds ``n``.
    """
    if k is not None:
        if k < 1:
            raise ConfigError(f"k must be at least 1. Got {k}")
        if k > n:
            raise DataError(f"k={k} exceeds {n} records; lower k, or use keep_fraction")
        return k
    if not 0 < keep_fraction <= 1:
        raise ConfigError(f"keep_fraction must be in (0, 1]. Got {keep_fraction}")
    # The product may fall a rounding error short of a whole number: 0.29 · 100 is 28.999…
    count = math.floor(keep_fraction * n + 1e-9)
    if count < 1:
        raise ConfigError(f"keep_fraction={keep_fraction} of {n} records keeps none; raise it, or use k")
    return count


def select_rows(
    ids: Sequence[str],
    weights: Sequence[float],
    *,
    k: int,
    loss_weight_rule: LossWeightRule,
    because: str = "",
    refused: Mapping[str, str] | None = None,
) -> tuple[SelectedRow, ...]:
    """Keeps the ``k`` largest weights (Eq. 7), in input order.

    Loss weights over the kept rows are proportional to the weight, or to ``exp(weight)`` (the paper's rule, Eq. 7,
    almost uniform since simplex weights are about 1/n), or equal; always rescaled to mean 1, so that the learning rate
    keeps its meaning.

    Args:
        ids: Row ids, unique.
        weights: One weight for each id, ≥ 0, on the simplex.
        k: How many to keep.
        loss_weight_rule: How loss weights follow from weights.
        because: What the cut follows from, in words; a part of each reason.
        refused: Rows that are dropped whatever they weigh, each with the reason.

    Raises:
        DataError: Ids repeat, lengths differ, a weight is negative or not finite, or ``k`` is not in 1..n.
        ConfigError: The rule is unknown.
    """
    _check(ids, weights, k)
    order = sorted(range(len(ids)), key=lambda i: (-weights[i], ids[i]))
    rank = {ids[i]: position for position, i in enumerate(order, start=1)}
    refused = refused or {}
    kept_weights = {ids[i]: weights[i] for i in order[:k] if ids[i] not in refused}
    if not kept_weights:
        raise DataError(f"none of the {k} rows that weigh most may be kept: {next(iter(refused.values()))}")
    loss_weights = _loss_weights(kept_weights, loss_weight_rule)
    cut = weights[order[k - 1]]
    n = len(ids)
    return tuple(
        SelectedRow(
            id=id,
            weight=weight,
            rank=rank[id],
            kept=id in loss_weights,
            loss_weight=loss_weights.get(id),
            reason=f"dropped: {refused[id]}"
            if id in refused
            else _reason(rank[id], weight, k, n, cut) + (f"; {because}" if because else ""),
        )
        for id, weight in zip(ids, weights, strict=True)
    )


def _check(ids: Sequence[str], weights: Sequence[float], k: int) -> None:
    if len(ids) != len(weights):
        raise DataError(f"each row needs one weight. Got {len(ids)} ids and {len(weights)} weights")
    if len(set(ids)) != len(ids):
        raise DataError("ids must be unique; a repeated id cannot be joined to its weight")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise DataError("weights must be finite and non-negative; run the solver again with a larger epsilon")
    if not 1 <= k <= len(ids):
        raise DataError(f"k must be between 1 and {len(ids)}, the number of records. Got {k}")


def _loss_weights(kept: dict[str, float], rule: LossWeightRule) -> dict[str, float]:
    if rule == "proportional":
        raw = dict(kept)
    elif rule == "exp":
        raw = {id: math.exp(weight) for id, weight in kept.items()}
    elif rule == "uniform":
        raw = dict.fromkeys(kept, 1.0)
    else:
        raise ConfigError(f"loss_weight_rule must be one of {', '.join(LOSS_WEIGHT_RULES)}. Got {rule!r}")
    total = math.fsum(raw.values())
    if total == 0:
        raise DataError("all kept rows have weight 0; raise tau or effective_sample_size")
    return {id: value * len(raw) / total for id, value in raw.items()}


def _reason(rank: int, weight: float, k: int, n: int, cut: float) -> str:
    if rank <= k:
        return f"kept: rank {rank} of {n} is within the {k} kept"
    tie = "; ties are settled by id" if weight == cut else ""
    return f"dropped: rank {rank} of {n} is beyond the {k} kept{tie}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """How near a row is to a reference.

    Attributes:
        called: What the reference's rows are called.
        pulls: Whether the reference pulls.
        nearest: Ids of the rows that get most of its mass, most first.
        least_cost: Its least cost to any of them, in units of cost.
    """

    called: str
    pulls: bool
    nearest: Sequence[str]
    least_cost: float


def log_margin(weight: float, cut: float) -> float:
    """Returns ``log(weight / cut)``: how far a row is from the cut; minus infinity for a weight of 0."""
    return math.log(weight / cut) if weight > 0 and cut > 0 else -math.inf if weight == 0 else math.inf


def explain_row(row: SelectedRow, evidence: Sequence[Evidence], *, margin: float) -> str:
    """Returns the decision and its evidence as one plain sentence; without evidence, the rank alone.

    >>> row = SelectedRow("r", 0.1, 1, True, 1.0, "kept: rank 1 of 9 is within the 8 kept")
    >>> near, far = Evidence("safe answers", True, ["s-12", "s-40"], 0.1), Evidence("harm", False, ["h-7"], 0.3)
    >>> explain_row(row, [near, far], margin=0.2).partition(";")[0]
    'kept: closer to safe answers s-12, s-40 than to harm h-7 (costs 0.100 and 0.300)'
    """
    if not evidence:
        return f"{row.reason}; margin to the cut {margin:+.3f} in log weight"
    near = min(evidence, key=lambda one: one.least_cost)
    other = min((one for one in evidence if one.pulls != near.pulls), key=lambda one: one.least_cost)
    verdict = "kept" if row.kept else "dropped"
    return (
        f"{verdict}: closer to {near.called} {', '.join(near.nearest)} than to {other.called} {other.nearest[0]} "
        f"(costs {near.least_cost:.3f} and {other.least_cost:.3f}); margin to the cut {margin:+.3f} in log weight"
    )
