"""The weighted loss of one accumulated batch, in bounded memory.

Eq. 8 of Safety Optimal Transport is a mean over the completion tokens *within* each row, then a weighted mean over
rows. A loss that divides by all tokens of the batch would instead let long completions outweigh short ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sotune.errors import DataError

IGNORE_INDEX = -100
"""Label of a token that carries no loss, as everywhere in transformers and torch."""

CHUNK_ELEMENTS = 1 << 24
"""Most logits that are held in float32 at a time: 64 MiB."""


def compute_weighted_loss(token_losses: Tensor, labels: Tensor, loss_weight: Tensor, *, n_rows: Tensor | int) -> Tensor:
    r"""Computes a micro-batch's share of the loss of Eq. 8.

    ``Σ_i w_i · (1/|y_i|) Σ_j −log π(y_ij | x_i, y_i,<j) / n_rows``, with ``n_rows`` the rows of the whole accumulated
    batch, over all its micro-batches and processes. The shares then add up to the loss of that batch, however it
    is cut.

    Args:
        token_losses: As `compute_token_losses` gives them ``[rows, length]``.
        labels: Token ids ``[rows, length]``, not shifted; `IGNORE_INDEX` where there is no loss.
        loss_weight: One loss weight a row ``[rows]``; a mean of 1 over the data keeps the learning rate's scale.
        n_rows: Rows of the accumulated batch, at least 1.

    Returns:
        A float32 scalar.

    Raises:
        DataError: Shapes disagree, or a row has no token to learn.
    """
    if token_losses.shape != labels.shape or loss_weight.shape != labels.shape[:1]:
        raise DataError(
            f"token losses and labels must be [rows, length] and loss_weight [rows]. "
            f"Got {list(token_losses.shape)}, {list(labels.shape)} and {list(loss_weight.shape)}"
        )
    row_losses = compute_row_losses(token_losses, labels)
    return torch.sum(loss_weight.to(row_losses) * row_losses) / n_rows


def compute_row_losses(token_losses: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean negative log-likelihood of each row's completion tokens, float32 ``[rows]``.

    Args:
        token_losses: As `compute_token_losses` gives them ``[rows, length]``.
        labels: Token ids ``[rows, length]``, not shifted; `IGNORE_INDEX` where there is no loss.

    Raises:
        DataError: A row has no token to learn.
    """
    n_tokens = (shift_labels(labels) != IGNORE_INDEX).sum(dim=1)
    if not bool(n_tokens.all()):
        raise DataError(
            f"rows {(n_tokens == 0).nonzero().flatten().tolist()} of the batch have no completion token to learn; "
            f"drop rows whose labels are all {IGNORE_INDEX}"
        )
    return token_losses.sum(dim=1) / n_tokens


def compute_token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the negative log-likelihood of each token at the place that predicts it, float32 ``[rows, length]``.

    The loss of the token at place t stands at place t − 1; it is 0 where there is none. The log-softmax is taken in
    float32 whatever the type of the logits, a bounded number of tokens at a time, in the backward pass too; tokens
    without a label are skipped. Not differentiable twice.

    Args:
        logits: Scores of the next token ``[rows, length, vocabulary]``, finite.
        labels: Token ids ``[rows, length]``, not shifted; `IGNORE_INDEX` where there is no loss.

    Raises:
        DataError: Shapes disagree.
    """
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise DataError(
            f"logits must be [rows, length, vocabulary] and labels [rows, length]. "
            f"Got {list(logits.shape)} and {list(labels.shape)}"
        )
    nll: Tensor = _TokenNLL.apply(logits.flatten(0, 1), shift_labels(labels).flatten())  # type: ignore[no-untyped-call]
    return nll.view(labels.shape)


def shift_labels(labels: Tensor) -> Tensor:
    """Returns what each place predicts: the next place's label, and nothing at the last."""
    # Shifting the labels, not the logits, spares a copy of the logits.
    targets = torch.full_like(labels, IGNORE_INDEX)
    targets[:, :-1] = labels[:, 1:]
    return targets


class _TokenNLL(torch.autograd.Function):
    """Negative log-likelihood of each token, float32, zero where the target is `IGNORE_INDEX`.

    Autograd's own cross-entropy keeps a float32 copy of all logits for the backward pass. This one keeps the logits
    themselves, and takes the softmax again there, chunk by chunk.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        nll = torch.zeros(len(targets), dtype=torch.float32, device=logits.device)
        for tokens in _labeled_chunks(logits, targets):
            nll[tokens] = take_nll_gradient(logits[tokens].float(), targets[tokens])
        ctx.save_for_backward(logits, targets)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nll: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        grad_logits = torch.zeros_like(logits)
        for tokens in _labeled_chunks(logits, targets):
            scores = logits[tokens].float()
            take_nll_gradient(scores, targets[tokens])
            grad_logits[tokens] = scores.mul_(grad_nll[tokens, None]).to(grad_logits)
        return grad_logits, None


def take_nll_gradient(scores: Tensor, targets: Tensor) -> Tensor:
    """Returns each token's negative log-likelihood, and leaves its gradient in place of the scores.

    Args:
        scores: float32 ``[tokens, vocabulary]``; becomes ``softmax − one-hot``.
        targets: Token ids ``[tokens]``.
    """
    chosen, top = scores.gather(1, targets[:, None]), scores.amax(dim=1, keepdim=True)
    total = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
    scores.div_(total).scatter_add_(1, targets[:, None], scores.new_full((len(targets), 1), -1.0))
    return (total.log() + top - chosen).squeeze(1)


def _labeled_chunks(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    labeled = (targets != IGNORE_INDEX).nonzero().flatten()
    return torch.split(labeled, max(1, CHUNK_ELEMENTS // logits.shape[1]))
