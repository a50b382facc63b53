"""What a model, with an adapter or without, thinks of rows: the loss of each of their tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Record
from sotune.settings import TrainingSettings
from sotune.training.loss import compute_token_losses
from sotune.training.training_rows import LOSS_WEIGHT, TrainingRow, WeightedCollator, build_equal_rows


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
        By id, the negative log-likelihoods of the completion's tokens, float32 on the CPU, the end-of-sequence token
        among them. Rows that cannot be trained on are missing.

    Raises:
        DataError: No row can be trained on.
    """
    tokenizer = load_tokenizer(model)
    rows = build_equal_rows(records, tokenizer, settings)
    network = load_with(model, adapter)
    collate = WeightedCollator(pad_token_id=tokenizer.pad_token_id)
    by_length = sorted(rows, key=lambda row: (len(row.input_ids), row.id))
    losses: dict[str, Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            losses |= dict(zip([row.id for row in batch], _token_losses(batch, network, collate), strict=True))
    return losses


def load_with(model: ModelSpec, adapter: Path | None) -> Any:
    """Loads a model for use, with an adapter or without."""
    network = load_causal_lm(model, frozen=True)
    if adapter is None:
        return network
    # PEFT draws an adapter at random before it fills it.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        return PeftModel.from_pretrained(network, str(adapter), use_safetensors=True).eval()


def _token_losses(batch: Sequence[TrainingRow], network: Any, collate: WeightedCollator) -> list[Tensor]:
    inputs = {name: value.to(network.device) for name, value in collate([row.features() for row in batch]).items()}
    labels = inputs.pop("labels")
    del inputs[LOSS_WEIGHT]
    losses = compute_token_losses(network(**inputs).logits, labels).cpu()
    # The loss of the token at place t stands at place t − 1.
    return [losses[i, max(row.n_prompt - 1, 0) : len(row.input_ids) - 1].clone() for i, row in enumerate(batch)]
