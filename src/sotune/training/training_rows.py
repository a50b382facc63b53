"""From records and loss weights to the batches of the trainer: one row, one weight, all the way."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sotune.errors import DataError
from sotune.record_store import ids_of
from sotune.records import Record
from sotune.rendering import Renderer
from sotune.training.loss import IGNORE_INDEX

LOSS_WEIGHT = "loss_weight"
"""The column that carries a row's loss weight to the trainer."""

_N_NAMED = 5
_PADDED_COLUMNS = frozenset({"input_ids", "attention_mask", "labels"})
_PACKING_COLUMNS = frozenset(
    {"position_ids", "seq_idx", "seq_lengths", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One record, ready to train on.

    Attributes:
        id: The record.
        input_ids: The whole conversation, ``[length]``, int32 to halve the memory of a large set.
        learned: Which tokens are those of learned turns, bool ``[length]``; never the first, which nothing predicts.
        loss_weight: The row's weight in the loss, ≥ 0.
        kept: Which of the learned tokens carry loss, bool, one for each; ``None`` for all of them. What is left out
            keeps its share in the row's mean, so that a token counts as much as it would among all.
    """

    id: str
    input_ids: Tensor
    learned: Tensor
    loss_weight: float
    kept: Tensor | None = None

    def features(self) -> dict[str, Any]:
        """Returns what a collator takes: ``input_ids``, ``labels`` masked where nothing is learned, ``loss_weight``."""
        input_ids = self.input_ids.long()
        labels = input_ids.clone().masked_fill_(~self.learned, IGNORE_INDEX)
        if self.kept is None:
            return {"input_ids": input_ids, "labels": labels, LOSS_WEIGHT: self.loss_weight}
        labels[self.learned.nonzero().flatten()[~self.kept]] = IGNORE_INDEX
        share = float(self.kept.double().mean())
        return {"input_ids": input_ids, "labels": labels, LOSS_WEIGHT: self.loss_weight * share}


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of a training set, and what became of those that are not among them.

    Attributes:
        rows: What is trained on, in the order of the records.
        dropped: Why a record is not among them, by its id.
        truncated: Ids of records that lost tokens to ``max_length``.
        lossy: Ids of records of which the template leaves out a part that is learned.
    """

    rows: tuple[TrainingRow, ...]
    dropped: Mapping[str, str]
    truncated: tuple[str, ...]
    lossy: tuple[str, ...] = ()

    def digest(self) -> str:
        """Returns a SHA-256 that changes with any row, its weight or its place."""
        sha = hashlib.sha256()
        for row in self.rows:
            header = [row.id, len(row.input_ids), row.loss_weight]
            sha.update(json.dumps(header).encode())
            for part in (row.input_ids, row.learned, row.kept):
                sha.update(b"" if part is None else part.numpy().tobytes())
        return sha.hexdigest()

    def hold_out(self, n: int, seed: int) -> tuple[TrainingRows, tuple[TrainingRow, ...]]:
        """Returns the set without some rows that are drawn from it, and these rows."""
        drawn = set(torch.randperm(len(self.rows), generator=generator_of(seed, -1))[:n].tolist())
        kept = tuple(row for i, row in enumerate(self.rows) if i not in drawn)
        return replace(self, rows=kept), tuple(self.rows[i] for i in sorted(drawn))


def build_training_rows(
    records: Sequence[Record],
    loss_weights: Mapping[str, float],
    renderer: Renderer,
    *,
    learned_tokens: Mapping[str, Tensor] | None = None,
) -> TrainingRows:
    """Tokenizes records and joins each with its loss weight by id.

    A record that the template refuses, or that keeps no token to learn, is dropped and named.

    Args:
        records: The rows to train on, ids unique.
        loss_weights: One weight ≥ 0 for each record's id; other ids are ignored.
        renderer: How a record becomes tokens, the end-of-sequence token among them.
        learned_tokens: By id, which learned tokens carry loss, see `TrainingRow`; ids that are missing keep all.

    Raises:
        DataError: An id repeats or has no weight, a weight is unusable or all are zero, no row is left, or a mask does
            not fit its row.
    """
    _check_weights(ids_of(records), loss_weights)
    rows: list[TrainingRow] = []
    dropped: dict[str, str] = {}
    truncated, lossy = list[str](), list[str]()
    for record in records:
        try:
            tokens = renderer.tokens(record, append_eos=True)
        except DataError as error:
            dropped[record.id] = str(error)
            continue
        learned = torch.zeros(len(tokens.input_ids), dtype=torch.bool)
        for start, end in tokens.learned:
            learned[max(start, 1) : end] = True  # the first token is never predicted, so it cannot carry loss either
        if not learned.any():
            dropped[record.id] = f"no token to learn is left within max_length={renderer.max_length}"
            continue
        truncated += [record.id] if tokens.truncated else []
        lossy += [record.id] if tokens.lossy else []
        kept = (learned_tokens or {}).get(record.id)
        if kept is not None and not _usable_mask(kept, int(learned.sum()), record.id):
            dropped[record.id] = "none of its completion tokens is to be learned"
            continue
        input_ids = torch.tensor(tokens.input_ids, dtype=torch.int32)
        rows.append(TrainingRow(record.id, input_ids, learned, float(loss_weights[record.id]), kept))
    if not any(row.loss_weight for row in rows):
        example = next((f", for instance: {reason}" for reason in dropped.values()), "")
        raise DataError(
            f"nothing to learn: of {len(records)} records, {len(dropped)} cannot be trained on and {len(rows)} have "
            f"loss weight 0{example}; fix the data or the weights"
        )
    return TrainingRows(tuple(rows), dropped, tuple(truncated), tuple(lossy))


def _usable_mask(learned: Tensor, n_completion: int, id: str) -> bool:
    if learned.shape != (n_completion,) or learned.dtype != torch.bool:
        raise DataError(
            f"the token mask of row {id!r} must be bool, one for each of its {n_completion} completion tokens. "
            f"Got {learned.dtype}, {list(learned.shape)}"
        )
    return bool(learned.any())


def _check_weights(ids: Sequence[str], loss_weights: Mapping[str, float]) -> None:
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"ids must be unique to be joined to their weights. Got twice: {_some(repeated)}")
    missing = [id for id in ids if id not in loss_weights]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} records have no loss weight: {_some(missing)}; "
            f"give each record's id a weight, or leave the record out"
        )
    unusable = [id for id in ids if not (math.isfinite(loss_weights[id]) and loss_weights[id] >= 0)]
    if unusable:
        raise DataError(f"loss weights must be finite and at least 0. Got others for {_some(unusable)}")


def _some(ids: Sequence[str]) -> str:
    shown, n_more = ", ".join(map(repr, ids[:_N_NAMED])), len(ids) - _N_NAMED
    return shown if n_more <= 0 else f"{shown} and {n_more} more"


_GROUPED_BATCHES = 50
"""Batches whose rows are sorted together: enough for little padding, few enough that a batch stays random."""


class ShuffledRows(Dataset[dict[str, Any]]):
    """Training rows in an order that depends on the seed and the epoch alone.

    A sampler draws its order from a generator whose state a resumed run must restore. Here the order is a function
    of where training stands, so that a run that was killed sees the rows that it would have seen. The dataloader
    reads it from first to last and calls `set_epoch` before each pass.

    Args:
        rows: The rows.
        seed: Of the order.
        group: Rows of a batch, when those of a batch are to be of like length. The rows of some dozens of batches at a
            time are sorted by length and cut into batches, and the batches shuffled; 1 leaves the order as it is.
    """

    def __init__(self, rows: Sequence[TrainingRow], *, seed: int, group: int = 1) -> None:
        self._rows = rows
        self._seed = seed
        self._group = group
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Puts the rows in the order of an epoch, counted from 0."""
        generator = generator_of(self._seed, epoch)
        self._order: list[int] = torch.randperm(len(self._rows), generator=generator).tolist()
        if self._group > 1:
            self._order = self._grouped(self._order, generator)

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        size, pool = self._group, self._group * _GROUPED_BATCHES
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        by_length = [i for rows in pools for i in sorted(rows, key=lambda i: -len(self._rows[i].input_ids))]
        batches = [by_length[start : start + size] for start in range(0, len(order), size)]
        # A batch that is not full stays last, so that the batches after it do not shift.
        n_full = len(order) // size
        shuffled = torch.randperm(n_full, generator=generator).tolist()
        return [i for batch in (*shuffled, *range(n_full, len(batches))) for i in batches[batch]]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[self._order[index]].features()


@dataclass(frozen=True, slots=True)
class WeightedCollator:
    """Pads rows on the right to a batch, and keeps each row's ``loss_weight``.

    Takes features with ``input_ids``, ``labels`` and ``loss_weight``, and perhaps ``attention_mask``; lists or
    tensors. Packed rows are refused: after packing, one sequence holds tokens of several weights.

    Attributes:
        pad_token_id: Id to pad ``input_ids`` with; masked, so that any id of the vocabulary does.
        pad_to_multiple_of: Length of a batch is a multiple of this.

    Example:
        >>> collator = WeightedCollator(pad_token_id=0)
        >>> row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "loss_weight": 0.5}
        >>> collator([row])["loss_weight"]
        tensor([0.5000])
    """

    pad_token_id: int
    pad_to_multiple_of: int = 1

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Builds one batch: ``[rows, length]`` each, and ``loss_weight [rows]`` in float32.

        Raises:
            DataError: A column is missing or unknown, rows are packed, or lengths within a row disagree.
        """
        for feature in features:
            _check_columns(feature)
        longest = max(len(feature["input_ids"]) for feature in features)
        length = math.ceil(longest / self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(features), length)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORE_INDEX),
        }
        for i, feature in enumerate(features):
            n_tokens = len(feature["input_ids"])
            columns = {"attention_mask": torch.ones(n_tokens), **feature}
            for name, padded in batch.items():
                padded[i, :n_tokens] = torch.as_tensor(columns[name])
        weights = [float(feature[LOSS_WEIGHT]) for feature in features]
        return {**batch, LOSS_WEIGHT: torch.tensor(weights, dtype=torch.float32)}


@dataclass(frozen=True, slots=True)
class RowBatches:
    """Training rows, and batches of them by position."""

    rows: Sequence[TrainingRow]
    collate: WeightedCollator

    def take(self, positions: Iterable[int], device: torch.device | None = None) -> dict[str, Tensor]:
        """Returns the batch of some rows; see `WeightedCollator`."""
        batch = self.collate([self.rows[i].features() for i in positions])
        return {name: value.to(device) for name, value in batch.items()}


def build_equal_rows(records: Sequence[Record], renderer: Renderer) -> RowBatches:
    """Tokenizes records that all count the same, with weight 1; see `build_training_rows`.

    Raises:
        DataError: An id repeats, or no row is left.
    """
    rows = build_training_rows(records, dict.fromkeys(ids_of(records), 1.0), renderer)
    return RowBatches(rows.rows, WeightedCollator(pad_token_id=renderer.tokenizer.pad_token_id))


def generator_of(seed: int, number: int) -> torch.Generator:
    """Returns the generator of an epoch or step, so that what it draws depends on nothing before it."""
    # A plain sum would give seed 1, in its first epoch, the order of seed 0 in its second.
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def draw_in_passes(n: int, *, of: int, seed: int, step: int) -> list[int]:
    """Returns which of some things a step looks at: the next ones of a shuffled pass, and of the pass after it."""
    n = min(n, of)
    places = [divmod(step * n + place, of) for place in range(n)]
    orders = {number: torch.randperm(of, generator=generator_of(seed, number)) for number, _ in places}
    return [int(orders[number][place]) for number, place in places]


def _check_columns(feature: Mapping[str, Any]) -> None:
    if packed := sorted(_PACKING_COLUMNS & feature.keys()):
        raise DataError(
            f"packed rows cannot be weighted: one sequence would hold tokens with different weights. "
            f"Got {', '.join(packed)}; turn packing off"
        )
    if missing := sorted({"input_ids", "labels", LOSS_WEIGHT} - feature.keys()):
        raise DataError(
            f"a row lacks {', '.join(missing)}. Got {', '.join(sorted(feature))}; the dataset must give each row "
            f"input_ids, labels and {LOSS_WEIGHT}"
        )
    if unknown := sorted(feature.keys() - _PADDED_COLUMNS - {LOSS_WEIGHT}):
        raise DataError(
            f"WeightedCollator does not know how to pad {', '.join(unknown)}; remove the column from the dataset"
        )
    lengths = {name: len(feature[name]) for name in sorted(_PADDED_COLUMNS & feature.keys())}
    if len(set(lengths.values())) != 1:
        raise DataError(f"columns of one row must have equal lengths. Got {lengths}")
    weight = torch.as_tensor(feature[LOSS_WEIGHT])
    if weight.numel() != 1 or not weight.isfinite().all():
        raise DataError(f"{LOSS_WEIGHT} must be one finite number a row. Got {feature[LOSS_WEIGHT]!r}")
