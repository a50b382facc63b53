"""Which rows are kept, how strongly each counts in training, and why a row was dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from sotune.errors import ConfigError, DataError
from sotune.seen import SeenMap

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


class Selection(Sequence[SelectedRow]):
    """The decisions about all rows, in input order; each is put into words when it is asked for.

    Args:
        ids: Row ids.
        weights: Their weights, ``[n]``.
        order: Places of the rows, the largest weight first, ``[n]``.
        loss_weights: Their weights in the loss, ``[n]``; NaN for a dropped row.
        k: How many are kept unless they are refused.
        because: What the cut follows from, in words.
        refused: Rows that are dropped whatever they weigh, each with the reason.
    """

    def __init__(
        self,
        ids: Sequence[str],
        weights: NDArray[np.float64],
        order: NDArray[np.int64],
        loss_weights: NDArray[np.float64],
        *,
        k: int,
        because: str,
        refused: Mapping[str, str],
    ) -> None:
        self._ids, self._weights, self._loss_weights = ids, weights, loss_weights
        self._k, self._cut, self._because, self._refused = k, float(weights[order[k - 1]]), because, refused
        self._ranks = np.empty(len(order), dtype=np.int64)
        self._ranks[order] = np.arange(1, len(order) + 1)

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def cut(self) -> float:
        """The weight of the last row within the cut, whether it is kept or refused."""
        return self._cut

    @property
    def n_kept(self) -> int:
        """How many rows are kept."""
        return int(np.isfinite(self._loss_weights).sum())

    @overload
    def __getitem__(self, place: int) -> SelectedRow: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[SelectedRow]: ...
    def __getitem__(self, place: int | slice) -> SelectedRow | Sequence[SelectedRow]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]
        return self._row(place, self._ids[place])

    def __iter__(self) -> Iterator[SelectedRow]:
        return (self._row(place, id) for place, id in enumerate(self._ids))

    def _row(self, place: int, id: str) -> SelectedRow:
        rank, weight, loss_weight = int(self._ranks[place]), float(self._weights[place]), self._loss_weights[place]
        reason = _reason(rank, weight, self._k, len(self), self._cut) + (f"; {self._because}" if self._because else "")
        return SelectedRow(
            id=id,
            weight=weight,
            rank=rank,
            kept=not math.isnan(loss_weight),
            loss_weight=None if math.isnan(loss_weight) else float(loss_weight),
            reason=f"dropped: {self._refused[id]}" if id in self._refused else reason,
        )


def select_rows(
    ids: Sequence[str],
    weights: Sequence[float] | NDArray[np.float64],
    *,
    k: int,
    loss_weight_rule: LossWeightRule,
    because: str = "",
    refused: Mapping[str, str] | None = None,
) -> Selection:
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
    found, refused = np.asarray(weights, dtype=np.float64), refused or {}
    _check(ids, found, k)
    order = _by_rank(ids, found)
    kept = np.sort(order[:k])
    if refused:
        kept = kept[[ids[place] not in refused for place in kept]]
    if not len(kept):
        raise DataError(f"none of the {k} rows that weigh most may be kept: {next(iter(refused.values()))}")
    loss_weights = np.full(len(found), math.nan)
    loss_weights[kept] = _loss_weights(found[kept], loss_weight_rule)
    return Selection(ids, found, order, loss_weights, k=k, because=because, refused=refused)


def _by_rank(ids: Sequence[str], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the places of rows, the largest weight first; of equal weights by id."""
    order = np.argsort(-weights, kind="stable")
    ordered = weights[order]
    borders = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(order)]
    for start, stop in itertools.pairwise(borders):
        if stop - start > 1:
            tied = order[start:stop]
            order[start:stop] = tied[sorted(range(len(tied)), key=lambda i: ids[int(tied[i])])]
    return order


def _check(ids: Sequence[str], weights: NDArray[np.float64], k: int) -> None:
    if len(ids) != len(weights):
        raise DataError(f"each row needs one weight. Got {len(ids)} ids and {len(weights)} weights")
    seen = SeenMap()
    if any(seen.swap(id.encode(), 1) for id in ids):
        raise DataError("ids must be unique; a repeated id cannot be joined to its weight")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError("weights must be finite and non-negative; run the solver again with a larger epsilon")
    if not 1 <= k <= len(ids):
        raise DataError(f"k must be between 1 and {len(ids)}, the number of records. Got {k}")


def _loss_weights(kept: NDArray[np.float64], rule: LossWeightRule) -> NDArray[np.float64]:
    if rule == "proportional":
        raw = kept
    elif rule == "exp":
        raw = np.fromiter(map(math.exp, kept), dtype=np.float64)
    elif rule == "uniform":
        raw = np.ones(len(kept))
    else:
        raise ConfigError(f"loss_weight_rule must be one of {', '.join(LOSS_WEIGHT_RULES)}. Got {rule!r}")
    total = math.fsum(raw)
    if total == 0:
        raise DataError("all kept rows have weight 0; raise tau or effective_sample_size")
    scaled: NDArray[np.float64] = raw * len(raw) / total
    return scaled


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
