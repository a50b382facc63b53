"""Texts through a model in batches: which go together, and how they are padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]  # done, in all


def longest_first(lengths: Mapping[str, int], size: int, on_progress: Progress | None = None) -> Iterator[list[str]]:
    """Yields the ids in batches, a fixed function of the lengths; like lengths share a batch.

    The longest come first: a batch that does not fit in memory fails at once, not after an hour.

    Args:
        lengths: Id to length.
        size: Ids per batch.
        on_progress: Called after each batch with how many ids are done, and how many there are.
    """
    order = sorted(lengths, key=lambda id: (-lengths[id], id))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        yield batch
        if on_progress is not None:
            on_progress(start + len(batch), len(order))


def pad(
    rows: Sequence[Sequence[int]], pad_token_id: int, *, side: Literal["left", "right"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and the mask of those that are no padding, each [rows, longest]."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_token_id, padding_side=side),
        pad_sequence(masks, batch_first=True, padding_side=side),
    )
