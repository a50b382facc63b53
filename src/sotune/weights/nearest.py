"""Which reference rows a row's mass goes to: the shortest explanation of its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.transport import CostMatrix
from sotune.transport.cost import row_blocks


@dataclass(frozen=True)
class Nearest:
    """The reference rows that get the most of each row's mass, most first.

    Attributes:
        columns: Their positions in the reference, ``[n, k]``.
        shares: The share of the row's mass that each gets, ``[n, k]``, in [0, 1].
        least_cost: Least cost to any reference row, ``[n]``, in units of cost.
    """

    columns: Tensor
    shares: Tensor
    least_cost: Tensor


def reach(cost: CostMatrix, own: Tensor, *, share: float = 0.99) -> float:
    """Returns the least cost to another row of the same reference that all but a few of its rows stay within.

    Infinite for a reference of one row, of which nothing is known.

    >>> from sotune.transport import DenseCost
    >>> cost = DenseCost(torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]))
    >>> reach(cost, torch.arange(3), share=1.0)
    2.0

    Args:
        cost: Ground cost between some of the reference's rows and all of them, ``[k, m]``.
        own: Which column each of these rows is, ``[k]``.
        share: The share of the rows that stay within it.
    """
    return float(least_costs(cost, own=own).double().quantile(share))


def least_costs(cost: CostMatrix, *, own: Tensor | None = None) -> Tensor:
    """Returns the least cost of each row to any row of a reference, ``[n]``.

    >>> from sotune.transport import DenseCost
    >>> least_costs(DenseCost(torch.tensor([[0.5, 1.0], [3.0, 2.0]])))
    tensor([0.5000, 2.0000])

    Args:
        cost: Ground cost, ``[n, m]``.
        own: Which column each row itself is, and does not count, ``[n]``; ``None``: it is none.
    """
    least = []
    for start, stop in row_blocks(cost):
        block = cost.rows(start, stop)
        if own is not None:
            block[torch.arange(stop - start), own[start:stop]] = torch.inf
        least.append(block.min(dim=1).values)
    return torch.cat(least)


def nearest_by_mass(cost: CostMatrix, g: Tensor, epsilon: float, *, most: int) -> Nearest:
    """Returns the reference rows with the largest shares ``P_ij / Σ_j P_ij = softmax_j((g_j − C_ij) / ε)``.

    Reads the cost in blocks of rows; the references' own masses are equal and cancel.

    >>> from sotune.transport import DenseCost
    >>> cost = DenseCost(torch.tensor([[0.0, 1.0, 3.0]]))
    >>> nearest_by_mass(cost, torch.zeros(3), 1.0, most=2).shares
    tensor([[0.7054, 0.2595]])

    Args:
        cost: Ground cost, ``[n, m]``.
        g: Column potential, ``[m]``, in units of cost.
        epsilon: Entropic strength, in units of cost.
        most: How many to name for each row; fewer where the reference is smaller.
    """
    columns, shares, least = [], [], []
    for start, stop in row_blocks(cost):
        block = cost.rows(start, stop)
        least.append(block.min(dim=1).values)
        top = block.sub_(g).div_(-epsilon).softmax(dim=1).topk(min(most, len(g)), dim=1)
        columns.append(top.indices.int())
        shares.append(top.values)
    return Nearest(torch.cat(columns), torch.cat(shares), torch.cat(least))
