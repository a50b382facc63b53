"""Which view of a row stands for it: the one that looks most harmful."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import fit_balanced


def fit_harm_score(
    pull: Tensor,
    harmful_reference: Tensor,
    *,
    inverse_regularization: float = PROBE_REGULARIZATION,
    tolerance: float = 1e-5,
) -> Callable[[Tensor], Tensor]:
    """Returns a logistic probe on the references: from representations ``[k, d]`` to log-odds of harm ``[k]``.

    Args:
        pull: Representations of the safe anchor and of the safe reference, where there is one, ``[m, d]``.
        harmful_reference: Those of the harmful reference.
        inverse_regularization: C of the logistic regression.
        tolerance: See `sotune.weights.logistic.fit_logistic`.

    Raises:
        SotuneError: The fit diverged.

    >>> score = fit_harm_score(torch.tensor([[1.0, 0.1]]), torch.tensor([[0.1, 1.0]]))
    >>> bool(score(torch.tensor([[0.2, 0.9]])) > score(torch.tensor([[0.9, 0.2]])))
    True
    """
    sides = (normalize_rows(z.double()) for z in (pull, harmful_reference))
    harm = fit_balanced(*sides, inverse_regularization=inverse_regularization, tolerance=tolerance)
    return lambda z: harm(normalize_rows(z.double()))


def pick_worst(scores: Tensor, owner: Tensor) -> Tensor:
    """Returns for each row the place of its most harmful look; of equal ones the first.

    Args:
        scores: Harm scores of all looks, ``[k]``.
        owner: Row of each, ``[k]``; each of 0 to n - 1 has one at least.

    Returns:
        Places among the looks, ``[n]``.

    >>> pick_worst(torch.tensor([0.1, 0.9, 0.3, 0.2, 0.9]), torch.tensor([0, 1, 0, 0, 1])).tolist()
    [2, 1]
    """
    n = int(owner.max()) + 1
    worst = torch.full((n,), -torch.inf, dtype=scores.dtype).scatter_reduce(0, owner, scores, "amax")
    places = torch.arange(len(scores)).masked_fill(scores < worst[owner], len(scores))
    return torch.full((n,), len(scores)).scatter_reduce(0, owner, places, "amin")
