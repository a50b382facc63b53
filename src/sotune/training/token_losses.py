"""What a model, with an adapter or without, thinks of rows: the loss of each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sotune.models import ModelSpec, load_adapted
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training.output_layer import compute_model_losses
from sotune.training.training_rows import LOSS_WEIGHT, build_equal_rows


def score_tokens(
    records: Sequence[Record],
    *,
    model: ModelSpec,
    adapter: Path | None,
    settings: TrainingSettings,
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Computes the loss of every completion token, as it would be trained on.

    Args:
        records: Rows with unique ids.
        model: The base model.
        adapter: An adapter's folder; ``None`` for the base model itself.
        settings: Template and length limit.
        batch_size: Rows of a forward pass, of like length.

    Returns:
        By id, the negative log-likelihoods of the learned tokens, float32 on the CPU, the end-of-sequence token
        among them. Rows that cannot be trained on are missing.

    Raises:
        DataError: No row can be trained on.
    """
    rows = build_equal_rows(records, load_renderer(model, settings))
    network = load_adapted(model, adapter)
    by_length = sorted(range(len(rows.rows)), key=lambda i: (len(rows.rows[i].input_ids), rows.rows[i].id))
    losses: dict[str, Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(by_length), batch_size):
            positions = by_length[start : start + batch_size]
            batch = rows.take(positions, network.device)
            labels = batch.pop("labels")
            del batch[LOSS_WEIGHT]
            found = compute_model_losses(network, batch, labels).cpu()
            for row, values in zip((rows.rows[i] for i in positions), found, strict=True):
                # The loss of the token at place t stands at place t − 1.
                losses[row.id] = values[row.learned.nonzero().flatten() - 1]
    return losses
