"""How the rows of a step are computed: cut into micro-batches by length, and put one behind the other in one sequence.

Neither changes the step. Which rows it has, and what each counts, is settled before; only padding is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.models import evaluating
from sotune.training.loss import IGNORE_INDEX
from sotune.training.output_layer import compute_model_losses

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Most difference of packed logits, as a share of their spread: of rounding alone."""
SAME_LOGITS = 1e-4
"""Most difference of packed logits in float32 with which rows are packed unasked; SmolLM2 has 7e-6 of rounding."""
_TWO_ROWS = ([3, 8, 2], [7, 1, 9, 4, 6])


def cut_rows(lengths: Sequence[int], *, most_tokens: int, packed: bool, at_least: int = 1) -> list[list[int]]:
    """Returns which rows are computed together: those of like length, the longest first.

    Args:
        lengths: Tokens of each row.
        most_tokens: Of a part; a row that is longer stands alone.
        packed: Whether rows are put one behind the other, else padded to the longest.
        at_least: How many parts there must be, as far as there are rows.
    """
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if parts and _size([lengths[i] for i in (*parts[-1], row)], packed) <= most_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    while len(parts) < min(at_least, len(lengths)):
        place = max(range(len(parts)), key=lambda place: len(parts[place]))
        half = len(parts[place]) // 2
        parts[place : place + 1] = [parts[place][:half], parts[place][half:]]
    return parts


def _size(lengths: Sequence[int], packed: bool) -> int:
    return sum(lengths) if packed else max(lengths) * len(lengths)


def row_lengths(batch: Mapping[str, Tensor]) -> list[int]:
    """Returns how many tokens each row of a batch has, without the padding on the right."""
    if "attention_mask" not in batch:
        return [batch["input_ids"].shape[1]] * len(batch["input_ids"])
    lengths: list[int] = batch["attention_mask"].sum(dim=1).tolist()
    return lengths


def take_rows(batch: Mapping[str, Any], rows: Sequence[int], length: int) -> dict[str, Any]:
    """Returns some rows of a batch, without what is padding in all of them."""
    return {name: value[rows][:, :length] if value.ndim > 1 else value[rows] for name, value in batch.items()}


def compute_packed_losses(model: Any, batch: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Computes what `compute_model_losses` would, with the rows one behind the other in one sequence.

    Positions begin anew with each row, by which models of transformers tell the rows apart: none sees another.

    Args:
        model: A causal LM that passed `check_packing`.
        batch: ``input_ids`` and ``attention_mask``, padded on the right.
        labels: Token ids ``[rows, length]``, not shifted; `IGNORE_INDEX` where there is no loss.
    """
    own = batch["attention_mask"].bool()
    positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    # The first token of a row is predicted by nothing, and must not be by the row before.
    targets = labels.masked_fill(positions == 0, IGNORE_INDEX)[own]
    found = compute_model_losses(model, _packed(batch["input_ids"][own], positions[own]), targets[None])
    return found.new_zeros(labels.shape).masked_scatter(own, found)


def _packed(input_ids: Tensor, position_ids: Tensor) -> dict[str, Any]:
    # With a cache, or a mask, transformers would not look at the positions.
    return {"input_ids": input_ids[None], "position_ids": position_ids[None], "use_cache": False}


def check_packing(model: Any) -> None:
    """Checks that rows behind each other do not see each other in a model.

    Raises:
        ConfigError: They do, as in state space models, or the model takes no positions.
    """
    differs = packed_difference(model)
    if not differs <= _TOLERANCE.get(model.dtype, 5e-2):
        raise ConfigError(
            f"rows cannot be packed for a model of type {model.config.model_type!r}: in one sequence, one row sees "
            f"another (logits differ by {differs:.2g} of their spread); leave packing off"
        )


def packed_difference(model: Any) -> float:
    """Returns how much a row's logits change when another stands before it, as a share of their spread.

    More than rounding where rows see each other, as in state space models; infinite where a model takes no positions.
    """
    device = next(model.parameters()).device
    first, second = ([token % model.config.get_text_config().vocab_size for token in row] for row in _TWO_ROWS)
    try:
        with evaluating(model):
            alone = model(input_ids=torch.tensor([second], device=device))["logits"][0].float()
            return float((_second_of_two(model, first, second, device) - alone).abs().max() / alone.std())
    except TypeError:
        return float("inf")


def _second_of_two(model: Any, first: list[int], second: list[int], device: torch.device) -> Tensor:
    positions = [*range(len(first)), *range(len(second))]
    rows = (torch.tensor(row, device=device) for row in (first + second, positions))
    logits: Tensor = model(**_packed(*rows))["logits"]
    return logits[0, len(first) :].float()
