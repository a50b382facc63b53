"""Equal rows are solved as one row: their weights are then equal to the last bit, and cost no more than one.

The last bits of a matrix product depend on where in the matrix a row stands, so rows that are solved apart come out
with different weights however equal they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sotune.transport import Rows, RowView
from sotune.transport.cost import block_slices
from sotune.weights.solution import LearnedWeights

_DIGEST_BYTES = 16
_HEAD = 4


@dataclass(frozen=True)
class Distinct:
    """Which rows are equal.

    Attributes:
        first: Position of the first of each kind of row, ``[k]``, ascending.
        kind: The kind of each row, ``[n]``, in 0..k-1.
    """

    first: Tensor
    kind: Tensor

    @property
    def all_differ(self) -> bool:
        """Whether no two rows are equal."""
        return len(self.first) == len(self.kind)

    def of(self, rows: Rows) -> Rows:
        """Returns one row of each kind, ``[k, d]``, read when it is needed."""
        return rows if self.all_differ else _Taken(rows, self.first)

    def gather(self, mass: Tensor) -> Tensor:
        """Returns the mass of each kind, ``[k]``, of the rows' masses ``[n]``."""
        if self.all_differ:
            return mass
        total = torch.zeros(len(self.first), dtype=torch.float64, device=mass.device)
        return total.index_add_(0, self.kind, mass.double()).to(mass)

    def spread(self, learned: LearnedWeights, mass: Tensor) -> LearnedWeights:
        """Returns what was learned of the kinds for the rows, of masses ``[n]``."""
        if self.all_differ:
            return learned
        share = mass.double() / self.gather(mass.double())[self.kind]
        return replace(
            learned,
            weights=learned.weights[self.kind] * share,
            references=tuple(
                replace(reference, f=reference.f[self.kind], mean_cost=reference.mean_cost[self.kind])
                for reference in learned.references
            ),
        )


def find_distinct(rows: Rows) -> Distinct:
    """Finds which rows ``[n, d]`` are equal to the last bit.

    >>> find_distinct(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    Distinct(first=tensor([0, 1]), kind=tensor([0, 1, 0]))
    """
    n, width = rows.shape
    if _heads_differ(rows):
        every = torch.arange(n, device=rows.device)
        return Distinct(every, every)
    digests = np.empty((n, _DIGEST_BYTES), dtype=np.uint8)
    for start, stop in block_slices(n, width, torch.device("cpu")):
        block = rows[start:stop].cpu().contiguous().view(torch.uint8).numpy()
        for number, row in enumerate(block, start=start):
            digests[number] = np.frombuffer(hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest(), dtype=np.uint8)
    _, first, kind = np.unique(digests.view(f"V{_DIGEST_BYTES}"), return_index=True, return_inverse=True)
    order = np.argsort(first)
    in_order = np.argsort(order)[kind.reshape(n)]
    return Distinct(*(torch.from_numpy(one).to(rows.device) for one in (first[order], in_order)))


def _heads_differ(rows: Rows) -> bool:
    """Tells whether rows differ in their first few numbers already, which spares hashing all of them."""
    n, width = rows.shape
    blocks = block_slices(n, width, torch.device("cpu"))
    heads = torch.cat([rows[start:stop][:, :_HEAD].cpu() for start, stop in blocks]).contiguous()
    bits = heads.view(torch.uint8).numpy()
    return len(np.unique(bits.view(f"V{bits.shape[1]}"))) == len(heads)


class _Taken(RowView):
    """Some of the rows."""

    def __init__(self, rows: Rows, positions: Tensor) -> None:
        super().__init__(rows)
        self._positions = positions

    @property
    def shape(self) -> torch.Size:
        """The pair ``(k, d)``."""
        return torch.Size((len(self._positions), self._rows.shape[1]))

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some of them."""
        return self._rows[self._positions[rows]]
