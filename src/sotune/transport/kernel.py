r"""One reference as the solver sees it: a kernel that is stored when it fits, or computed anew block by block.

A block of rows is handed out as ``E_ij = b_j·exp((level_i + g⁰_j − C_ij) / ε)`` beside its ``level``, chosen so that
the largest entry of each row is 1; where costs are bounded well within the range of the number type, one level serves
all rows, with which no entry exceeds 1. The row update of Sinkhorn is then ``f = level − ε·log(E v)`` with
``v = exp((g − g⁰) / ε)``, which cannot overflow, and ``w_i·E_ij·v_j / (E v)_i`` is the plan with row masses ``w``. When
``v`` leaves the safe range of the number type it is absorbed: ``g⁰`` moves to ``g`` and the kernel is made anew.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import ConfigError, DataError
from sotune.transport.cost import CostMatrix, block_slices, row_blocks
from sotune.transport.row_shards import ALL_ROWS, Shards

_FILLED_ROWS = 1024
"""How many rows of a stored kernel are computed at once, at least: a product of few rows is slower than one of many."""


@dataclass(frozen=True)
class Block:
    """Some rows of a kernel, as a matrix about a level.

    Attributes:
        matrix: ``E``, ``[k, m]``, entries in [0, 1]; read-only.
        level: ``[k]``, in units of cost.
        sums: ``E v``, ``[k]``, > 0.
        f: Row potential ``level − ε·log(sums)``, ``[k]``.
    """

    matrix: Tensor
    level: Tensor
    sums: Tensor
    f: Tensor


class Kernel:
    """The columns of one transport problem, with the potential ``g`` that they stand at.

    Args:
        cost: Ground cost ``[n, m]``.
        b: Column masses ``[m]``, ≥ 0, sum 1.
        epsilon: Strength of the entropy, > 0, in units of cost.
        relaxation: Strength ρ of ``ρ·KL(column sums ‖ b)``, which stands for the condition that the column sums are
            ``b``; ≥ 0. Infinite demands them (balanced transport), 0 leaves them free.
        g: Column potential to start from ``[m]``; zero by default. Ignored where ρ is 0: the potential is zero then.
        stored: Whether to keep the whole kernel in memory, ``n·m`` numbers, or compute its blocks at each sweep.
        shards: Which rows are this process's; only theirs are kept.

    Raises:
        DataError: ``b`` is not a distribution over the columns.
        ConfigError: ``epsilon`` is not positive, or ``relaxation`` is negative.
    """

    def __init__(
        self,
        cost: CostMatrix,
        b: Tensor,
        epsilon: float,
        *,
        relaxation: float = math.inf,
        g: Tensor | None = None,
        stored: bool = True,
        shards: Shards = ALL_ROWS,
    ) -> None:
        check_epsilon(epsilon)
        check_relaxation(relaxation)
        check_masses(b, cost.shape[1], name="b")
        self.cost, self.epsilon, self.relaxation, self.stored = cost, epsilon, relaxation, stored
        self.shards, (self._first, self._end) = shards, shards.own(cost.shape[0])
        # Potentials and column masses are float64 even where the cost is not: g adds up small changes of many sweeps.
        self.b = b.to(device=cost.device, dtype=torch.float64)
        # Scalings beyond this are absorbed, well before products of two of them could overflow.
        self._limit = math.log(torch.finfo(cost.dtype).max) / 3
        self._matrix: Tensor | None = None
        self._levels: Tensor | None = None
        self._absorb(torch.zeros_like(self.b) if g is None or relaxation == 0 else g.to(self.b))

    @property
    def g(self) -> Tensor:
        """The column potential, ``[m]``, float64, in units of cost."""
        return self._g

    @property
    def scaling(self) -> Tensor:
        """``v``, ``[m]``."""
        return self._v

    @property
    def target(self) -> Tensor:
        """Column sums that the plan has once ``g`` is right, ``[m]``: ``b·exp(−g / ρ)``."""
        if self.relaxation == 0 or math.isinf(self.relaxation):
            return self.b
        return self.b * (-self._g / self.relaxation).exp()

    def move(self, g: Tensor) -> None:
        """Sets the column potential."""
        scaled = (g - self._g0) / self.epsilon
        if not self.stored or float(scaled.abs().max()) > self._limit:
            self._absorb(g)
        else:
            self._g, self._v = g, scaled.exp().to(self.cost.dtype)

    def change(self, log_masses: Tensor) -> Tensor:
        """Returns by how much one Sinkhorn update moves ``g``, given the logarithm of the column sums, ``[m]``.

        Where the level of ``g`` means nothing (exact column sums) it does not move: its mean by mass stays.
        """
        if self.relaxation == 0:
            return torch.zeros_like(self._g)
        used = self.b > 0
        # g_j += ε·log(b_j / Σ_i P_ij), from logarithms: a column's sum may be far below the least number.
        step = torch.where(used, self.epsilon * (self.b.log() - log_masses), 0.0)
        if math.isinf(self.relaxation):
            return torch.where(used, step - self.b @ step, 0.0)
        rho = self.relaxation
        # The proximal step of the penalty (Chizat et al. 2018): its optimum has column sums b·exp(−g / ρ).
        moved = rho / (rho + self.epsilon) * (self._g + step)
        # The best common shift of g (and −f) in closed form: without it a large ρ converges very slowly.
        moved = moved + rho * torch.logsumexp(self.b.log() - moved / rho, dim=0)
        return torch.where(used, moved - self._g, 0.0)

    def dual_value(self) -> float:
        """Returns the part of the dual value that ``g`` brings."""
        return column_value(self._g, self.b, self.relaxation)

    def block(self, start: int, stop: int) -> Block:
        """Returns some rows of the kernel."""
        matrix, level = self._rows(start, stop)
        sums = matrix @ self._v
        return Block(matrix, level, sums, level - self.epsilon * sums.log())

    def mean_cost(self, block: Block) -> Tensor:
        """Returns each row's mean cost under the plan, ``[k]``: the cost is read back from the kernel's logarithm."""
        # Σ_j P_ij C_ij / w_i with C_ij = level_i + offset_j − ε·log E_ij, so the cost is not computed again.
        # With one level for all rows no entry is 0, and the plain logarithm is faster.
        one_level = self._one_level is not None
        entropy = block.matrix.log().mul_(block.matrix) if one_level else torch.xlogy(block.matrix, block.matrix)
        weighted = block.matrix @ (self._v * self._offset)
        return block.level + (weighted - self.epsilon * (entropy @ self._v)) / block.sums

    def log_masses(self, f: Tensor, row_log_masses: Tensor) -> Tensor:
        """Returns the logarithm of the column sums, ``[m]``, in the log domain: slow, and right after underflow."""
        soft_min = column_soft_min(self.cost, f, row_log_masses, self.epsilon)
        return (self._g - soft_min) / self.epsilon + self.b.log()

    def _absorb(self, g: Tensor) -> None:
        self._g = self._g0 = g
        self._v = torch.ones(g.shape, dtype=self.cost.dtype, device=g.device)
        log_b = self.b.clamp(min=torch.finfo(torch.float64).tiny).log()
        # A column without mass takes no part: its logarithm is so low that the entry underflows to zero.
        self._offset = (g + self.epsilon * log_b).to(self.cost.dtype)
        self._one_level = self._common_level()
        self._ready = self._first

    def _rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if not self.stored:
            return self._compute(start, stop)
        if self._matrix is None or self._levels is None:
            n_own = self._end - self._first
            self._matrix = torch.empty(n_own, self.cost.shape[1], dtype=self.cost.dtype, device=self.cost.device)
            self._levels = torch.empty(n_own, dtype=self.cost.dtype, device=self.cost.device)
        here = slice(start - self._first, stop - self._first)
        if stop > self._ready:  # the first sweep fills the store as it goes
            ahead = min(self._end, max(stop, self._ready + _FILLED_ROWS))
            new = slice(self._ready - self._first, ahead - self._first)
            _, self._levels[new] = self._compute(self._ready, ahead, out=self._matrix[new])
            self._ready = ahead
        return self._matrix[here], self._levels[here]

    def _compute(self, start: int, stop: int, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shift = self._offset / self.epsilon
        if self._one_level is not None:
            block = self.cost.affine(start, stop, shift + self._one_level / self.epsilon, 1 / self.epsilon, out=out)
            return block.exp_(), self._one_level.expand(stop - start)
        # As in a log-sum-exp: with its largest entry taken off, no row can overflow or vanish.
        block = self.cost.affine(start, stop, shift, 1 / self.epsilon, out=out)
        top = block.amax(dim=1)
        return block.sub_(top[:, None]).exp_(), top.mul_(-self.epsilon)

    def _common_level(self) -> Tensor | None:
        """Returns one level for all rows where no entry can come near underflow with it: it saves two passes."""
        # Costs are ≥ 0, so with level −high every exponent lies between −(high − low + largest cost) / ε and 0.
        low, high = self._offset.min(), self._offset.max()
        if not (float(high - low) + self.cost.upper_bound) / self.epsilon <= self._limit:
            return None
        return -high


def own_blocks(kernels: Sequence[Kernel]) -> Iterator[tuple[int, int]]:
    """Yields ``(start, stop)`` pairs that cover this process's rows, in blocks of all kernels together."""
    n, _ = kernels[0].cost.shape
    first, end = kernels[0].shards.own(n)
    return block_slices(end, sum(kernel.cost.shape[1] for kernel in kernels), kernels[0].cost.device, first)


def join(parts: Iterable[Tensor]) -> Tensor:
    """Returns one vector over the columns of all references, of one for each.

    >>> join([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    tensor([1., 2., 3.])
    """
    return torch.cat(tuple(parts))


def part(kernels: Sequence[Kernel], joined: Tensor) -> list[Tensor]:
    """Returns a vector for each reference, of one over the columns of all; what is left over is dropped.

    >>> from sotune.transport import DenseCost
    >>> costs = DenseCost(torch.rand(4, 2)), DenseCost(torch.rand(4, 1))
    >>> kernels = [Kernel(cost, torch.full((m,), 1 / m), 0.1) for m, cost in zip((2, 1), costs)]
    >>> part(kernels, torch.tensor([1.0, 2.0, 3.0, 9.0]))
    [tensor([1., 2.]), tensor([3.])]
    """
    ends = list(itertools.accumulate(kernel.b.shape[0] for kernel in kernels))
    return [joined[end - kernel.b.shape[0] : end] for kernel, end in zip(kernels, ends, strict=True)]


def move_all(kernels: Sequence[Kernel], joined: Tensor) -> None:
    """Sets the column potentials of all references from one vector.

    >>> from sotune.transport import DenseCost
    >>> kernel = Kernel(DenseCost(torch.rand(4, 2)), torch.tensor([0.5, 0.5]), 0.1)
    >>> move_all([kernel], torch.tensor([0.25, -0.25]))
    >>> kernel.g
    tensor([ 0.2500, -0.2500])
    """
    for kernel, g in zip(kernels, part(kernels, joined), strict=True):
        kernel.move(g)


def column_value(g: Tensor, b: Tensor, relaxation: float) -> float:
    """Returns what a column potential adds to the dual value: ``⟨g, b⟩``, or ``−ρ·⟨b, exp(−g / ρ) − 1⟩``."""
    if relaxation == 0:
        return 0.0
    if math.isinf(relaxation):
        return float(g @ b)
    return float(-relaxation * (b @ torch.expm1(-g / relaxation)))


def column_soft_min(cost: CostMatrix, f: Tensor, log_a: Tensor, epsilon: float) -> Tensor:
    """Returns ``−ε log Σ_i a_i exp((f_i − C_ij) / ε)``, ``[m]``, one block of rows at a time."""
    shifted = f / epsilon + log_a
    total = torch.full((cost.shape[1],), -math.inf, dtype=cost.dtype, device=cost.device)
    for start, stop in row_blocks(cost):
        block = cost.rows(start, stop).div_(-epsilon).add_(shifted[start:stop, None])
        total = torch.logaddexp(total, block.logsumexp(dim=0))
    return total.mul_(-epsilon)


def check_epsilon(epsilon: float) -> None:
    """Raises a ConfigError unless ``epsilon`` is a positive number."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon must be a positive number, in units of cost. Got {epsilon}")


def check_relaxation(relaxation: float) -> None:
    """Raises a ConfigError unless ``relaxation`` is a number ≥ 0 or infinite."""
    if not relaxation >= 0:
        raise ConfigError(
            f"reference_relaxation must be 0 (column sums are free), positive, or infinite (exact). Got {relaxation}"
        )


def check_masses(mass: Tensor, size: int, *, name: str) -> None:
    """Raises a DataError unless ``mass`` is a distribution over ``size`` points."""
    if mass.shape != (size,):
        raise DataError(f"{name} must hold one mass for each of {size} points. Got shape {tuple(mass.shape)}")
    total = float(mass.double().sum())
    if not (abs(total - 1) < 1e-3 and bool((mass >= 0).all())):
        raise DataError(f"{name} must be non-negative and sum to 1. Got a sum of {total}, least {float(mass.min())}")
