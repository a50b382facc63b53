"""Rows dealt out to several processes, each of which holds the kernel of its own.

All processes do the same at once. A sweep passes over a process's own rows; then each is told what all found, a few
numbers a row and one a column, so that whatever follows a sweep knows of no others and comes to the same in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Shards(Protocol):
    """Which rows are this process's, and how it learns of the others'."""

    def own(self, n: int) -> tuple[int, int]:
        """Returns where this process's part of ``n`` rows begins and ends."""
        ...

    def most(self, n: int) -> int:
        """Returns how many of ``n`` rows the process has that has most."""
        ...

    def join_rows(self, values: Tensor) -> Tensor:
        """Returns one number a row ``[n]`` as all processes have it, given such a vector with only one's own right."""
        ...

    def add_columns(self, level: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns the sum over processes of ``exp(level)·sums``, as a level and sums, ``[m]`` for each reference."""
        ...


@dataclass(frozen=True)
class AllRows:
    """One process, which has all rows."""

    def own(self, n: int) -> tuple[int, int]:
        """Returns all rows."""
        return 0, n

    def most(self, n: int) -> int:
        """Returns how many rows there are."""
        return n

    def join_rows(self, values: Tensor) -> Tensor:
        """Returns them."""
        return values

    def add_columns(self, level: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns them."""
        return level, list(sums)


ALL_ROWS = AllRows()


@dataclass(frozen=True)
class ProcessShards:
    """One of several processes of `torch.distributed`, whose group is there: gloo on CPUs, nccl on GPUs.

    What they exchange is added up in the order of the ranks, so that the same number of processes gives the same bytes;
    another number gives others, within the rounding of the sums. They should run on machines of one kind: each decides
    for itself, from the same numbers, when to stop.

    Attributes:
        rank: Which this is.
        size: How many there are.
    """

    rank: int
    size: int

    def own(self, n: int) -> tuple[int, int]:
        """Returns a run of rows, as long as that of the others; the last may be shorter, or empty.

        >>> [ProcessShards(rank, 3).own(7) for rank in range(3)]
        [(0, 3), (3, 6), (6, 7)]
        """
        step = self.most(n)
        return min(n, self.rank * step), min(n, (self.rank + 1) * step)

    def most(self, n: int) -> int:
        """Returns how many rows each process has but the last."""
        return -(-n // self.size)

    def join_rows(self, values: Tensor) -> Tensor:
        """Returns all rows' numbers."""
        n, (start, stop) = len(values), self.own(len(values))
        mine = values.new_zeros(self.most(n))
        mine[: stop - start] = values[start:stop]
        return self._gather(mine).flatten()[:n]

    def add_columns(self, level: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns the highest level and the sums of all by it."""
        found = self._gather(torch.cat([level.double()[None], *sums]))
        top = found[:, 0].max()
        total = ((found[:, 0] - top).exp()[:, None] * found[:, 1:]).sum(dim=0)
        return top, list(torch.split(total, [len(column) for column in sums]))

    def _gather(self, mine: Tensor) -> Tensor:
        import torch.distributed as dist

        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return torch.stack(found)
