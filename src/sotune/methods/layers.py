"""Representations at every layer in one pass, for methods that choose their layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sotune.methods.base import Tools
from sotune.records import Record

Pooling = Literal["last", "completion", "shift"]
_BATCH_TOKENS = 8192


def encode_layers(records: Sequence[Record], tools: Tools, *, pooling: Pooling) -> Tensor:
    """Runs the frozen model once over the rows and pools the output of every layer.

    All layers of all rows are held in memory: 2.7 GB for 5,000 rows of an 8B model.

    Args:
        records: The rows.
        tools: The model, its template and length limit.
        pooling: ``last`` is the last token's state; ``completion`` the mean state of the completion's tokens; ``shift``
            that mean less the state of the prompt's last token.

    Returns:
        ``[n_layers + 1, n, d]``, float32 on the CPU: the embeddings, then each layer; the last after the final norm.

    Raises:
        DataError: A completion has no token of its own.
    """
    from sotune.models import load_causal_lm, load_tokenizer
    from sotune.rendering import tokenize
    from sotune.representations.causal_lm import pad_batch

    tokenizer = load_tokenizer(tools.model)
    decoder = load_causal_lm(tools.model, frozen=True).get_decoder()
    device = next(decoder.parameters()).device
    template, max_length = tools.training.template, tools.training.max_length
    rows = [tokenize(record, tokenizer, template=template, max_length=max_length) for record in records]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].input_ids), records[i].id))
    pooled: dict[int, Tensor] = {}
    with torch.inference_mode():
        for batch in _split(order, [len(rows[i].input_ids) for i in order]):
            ids, mask = pad_batch(
                [rows[i].input_ids for i in batch], padding_side="right", pad_token_id=tokenizer.pad_token_id
            )
            outputs = decoder(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
            )
            for place, i in enumerate(batch):
                states = torch.stack([layer[place, : len(rows[i].input_ids)] for layer in outputs.hidden_states])
                pooled[i] = _pool(states.float(), rows[i].n_prompt, pooling).cpu()
    return torch.stack([pooled[i] for i in range(len(rows))], dim=1)


def _pool(states: Tensor, n_prompt: int, pooling: Pooling) -> Tensor:
    """Pools ``[layers, t, d]`` to ``[layers, d]``."""
    if pooling == "last":
        return states[:, -1]
    mean = states[:, n_prompt:].mean(1)
    return mean - states[:, max(n_prompt, 1) - 1] if pooling == "shift" else mean


def _split(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Packs rows, in ascending length, into batches of bounded size."""
    batches: list[list[int]] = []
    for i, length in zip(order, lengths, strict=True):
        if not batches or (len(batches[-1]) + 1) * length > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Returns the chance that a positive's score exceeds a negative's, ties counting half."""
    difference = positive.double()[:, None] - negative.double()[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())
