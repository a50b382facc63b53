"""One pass over all rows, which updates every potential at once, and the extrapolation between passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import SotuneError
from sotune.transport.kernel import Kernel, own_blocks

LogMasses = Callable[[int, int, Sequence[Tensor]], Tensor]
"""Gives the logarithms of the masses of rows ``start`` to ``stop``, ``[k]``, from their potentials; on any scale."""
OnRows = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


@dataclass(frozen=True)
class Sweep:
    """What one pass over the rows found, at the column potentials that it began with.

    Attributes:
        f: Row potentials towards each reference, ``[n]`` each: the row updates, so that row sums are exact.
        log_masses: Logarithms of the column sums of each plan with the row masses scaled to sum 1, ``[m]`` each,
            float64.
        changes: By how much a Sinkhorn update would move each column potential, ``[m]`` each, in units of cost.
        errors: L1 error of the column sums of each plan.
        mean_costs: Each row's mean cost under each plan, ``[n]`` each; empty unless asked for.
    """

    f: tuple[Tensor, ...]
    log_masses: tuple[Tensor, ...]
    changes: tuple[Tensor, ...]
    errors: tuple[float, ...]
    mean_costs: tuple[Tensor, ...]


def sweep(
    kernels: Sequence[Kernel],
    log_masses_of: LogMasses,
    *,
    corrections: Sequence[Tensor] | None = None,
    mean_costs: bool = False,
    on_rows: OnRows | None = None,
) -> Sweep:
    """Passes once over all rows: row potentials, row masses from them, and the column sums that follow.

    Where they are dealt out to several processes, all pass over their own at once, and all are told what came of it.

    Masses need no normalizer beforehand: sums are kept relative to the largest mass so far, and scaled down when a
    larger one comes.

    >>> from sotune.transport import DenseCost
    >>> half = torch.tensor([0.5, 0.5])
    >>> kernel = Kernel(DenseCost(torch.tensor([[0.0, 1.0], [0.0, 1.0]])), half, 1.0)
    >>> found = sweep([kernel], lambda start, stop, f: half.log()[start:stop])
    >>> found.log_masses[0].exp()  # both rows lie at the first column
    tensor([0.7311, 0.2689], dtype=torch.float64)

    Args:
        kernels: One for each reference, over the same rows.
        log_masses_of: The masses of the rows; may depend on their potentials.
        corrections: Added to the logarithms of the column sums, ``[m]`` each.
        mean_costs: Whether to find each row's mean cost too.
        on_rows: Is told of progress.

    Raises:
        SotuneError: A column sum is not finite.
    """
    n, device, dtype = kernels[0].cost.shape[0], kernels[0].cost.device, kernels[0].cost.dtype
    f = [torch.empty(n, dtype=dtype, device=device) for _ in kernels]
    means = [torch.empty(n, dtype=dtype, device=device) for _ in kernels] if mean_costs else []
    log_masses = torch.empty(n, dtype=dtype, device=device)
    sums = [torch.zeros(kernel.cost.shape[1], dtype=torch.float64, device=device) for kernel in kernels]
    level = torch.tensor(_LOWEST, dtype=dtype, device=device)
    shards = kernels[0].shards
    for start, stop in own_blocks(kernels):
        blocks = [kernel.block(start, stop) for kernel in kernels]
        # Masses may follow from the potentials just found, so transports and weights are updated in one pass.
        here = log_masses_of(start, stop, [block.f for block in blocks])
        log_masses[start:stop] = here
        higher = torch.maximum(level, here.max())
        scale, masses = (level - higher).exp(), (here - higher).exp()
        level = higher
        for number, block in enumerate(blocks):
            f[number][start:stop] = block.f
            # Without v_j, a factor of the whole column, which `_column_log_masses` adds as a logarithm.
            sums[number].mul_(scale).add_(block.matrix.T @ (masses / block.sums))
            if mean_costs:
                means[number][start:stop] = kernels[number].mean_cost(block)
        if on_rows is not None:
            on_rows(stop, n)
    level, sums = shards.add_columns(level, sums)
    f, means = ([shards.join_rows(one) for one in of_rows] for of_rows in (f, means))
    log_sums = [column.log() + level for column in sums]
    return _finish(kernels, f, shards.join_rows(log_masses), log_sums, corrections, means)


def _finish(
    kernels: Sequence[Kernel],
    f: Sequence[Tensor],
    log_masses: Tensor,
    log_sums: Sequence[Tensor],
    corrections: Sequence[Tensor] | None,
    means: Sequence[Tensor],
) -> Sweep:
    """Normalizes the masses, now that all of them are known, and finds the columns' masses, changes and errors."""
    log_total = torch.logsumexp(log_masses.double(), dim=0)
    found = [
        _column_log_masses(kernel, log_sum, potential, log_masses - log_total.to(log_masses), log_total)
        for kernel, log_sum, potential in zip(kernels, log_sums, f, strict=True)
    ]
    if corrections is not None:
        found = [log_mass + correction for log_mass, correction in zip(found, corrections, strict=True)]
    return Sweep(
        f=tuple(f),
        log_masses=tuple(found),
        changes=tuple(kernel.change(log_mass) for kernel, log_mass in zip(kernels, found, strict=True)),
        errors=tuple(_l1_error(kernel, log_mass) for kernel, log_mass in zip(kernels, found, strict=True)),
        mean_costs=tuple(means),
    )


def row_mean_costs(kernels: Sequence[Kernel]) -> tuple[Tensor, ...]:
    """Returns each row's mean cost under each plan, ``[n]`` each, at the kernels' column potentials.

    >>> from sotune.transport import DenseCost
    >>> kernel = Kernel(DenseCost(torch.tensor([[0.0, 1.0], [2.0, 2.0]])), torch.tensor([0.5, 0.5]), 1.0)
    >>> row_mean_costs([kernel])
    (tensor([0.2689, 2.0000]),)
    """
    n, device = kernels[0].cost.shape[0], kernels[0].cost.device
    means = tuple(torch.empty(n, dtype=kernel.cost.dtype, device=device) for kernel in kernels)
    for start, stop in own_blocks(kernels):
        for kernel, mean in zip(kernels, means, strict=True):
            mean[start:stop] = kernel.mean_cost(kernel.block(start, stop))
    return tuple(kernels[0].shards.join_rows(mean) for mean in means)


class Extrapolation:
    """Anderson acceleration of a fixed-point iteration on column potentials, with a way back.

    Keeps the last few points and steps, and jumps to where a combination of the steps would vanish. Where a jump made
    the error worse it returns to the point before, takes the plain step, and forgets what it knew.

    >>> extrapolation, x = Extrapolation(torch.ones(1)), torch.tensor([0.0])
    >>> for _ in range(3):  # x ← 0.9 x + 1, which alone would need a hundred iterations
    ...     step = 1 - 0.1 * x
    ...     x = extrapolation.next(x, step, float(step.abs()))
    >>> x
    tensor([10.])

    References: Walker and Ni, "Anderson Acceleration for Fixed-Point Iterations" (SIAM J. Numer. Anal. 2011).

    Args:
        metric: Positive weights of the coordinates, ``[k]``.
        memory: How many earlier steps to combine.
    """

    def __init__(self, metric: Tensor, memory: int = 6) -> None:
        self._scale, self._memory = metric.sqrt(), memory
        self._points: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._error = float("inf")
        self._jumped = False

    def next(self, point: Tensor, step: Tensor, error: float) -> Tensor:
        """Returns where to go from a point ``[k]`` at which the plain iteration would take ``step``."""
        # The jump was measured only now, at its landing point; a NaN counts as worse too.
        if self._jumped and not error <= _TOLERATED_RISE * self._error:
            point, step = self._points[-1], self._steps[-1]
            self._points, self._steps = [], []
            error = self._error
        self._points.append(point)
        self._steps.append(step)
        del self._points[: -self._memory - 1], self._steps[: -self._memory - 1]
        self._error = error
        self._jumped = len(self._points) > 1
        return self._jump() if self._jumped else point + step

    def forget(self) -> None:
        """Drops what is known: the iteration has become another one."""
        self._points, self._steps, self._jumped = [], [], False

    def _jump(self) -> Tensor:
        point, step = self._points[-1], self._steps[-1]
        steps = torch.stack(self._steps)
        # The mixture γ that minimizes ‖step − Σ γ Δstep‖ in the metric; at most `memory` unknowns, so the normal
        # equations do, with a ridge because steps grow parallel near the solution.
        differences = (steps[1:] - steps[:-1]) * self._scale
        moves = (torch.stack(self._points) + steps).diff(dim=0)
        gram = differences @ differences.T
        ridge = _RIDGE * gram.diagonal().max() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        right = differences @ (step * self._scale)
        # Not by `lstsq`, whose last bits differ from call to call: processes that share a problem would part ways.
        mixture, _ = torch.linalg.solve_ex(gram + ridge, right)
        jumped = point + step - mixture @ moves
        return jumped if bool(torch.isfinite(jumped).all()) else point + step


_TOLERATED_RISE = 1.5
_RIDGE = 1e-10
_LOWEST = -1e30  # below any logarithm of a mass, and finite, so that its differences are no NaN


_MARGIN = 20.0  # how far above the least number, as a logarithm, a column sum must be to be precise


def _column_log_masses(kernel: Kernel, log_sums: Tensor, f: Tensor, log_masses: Tensor, log_total: Tensor) -> Tensor:
    relative = log_sums - log_total
    found = relative + kernel.scaling.double().log()
    lost = (relative < math.log(torch.finfo(kernel.cost.dtype).tiny) + _MARGIN) & (kernel.b > 0)
    if bool(lost.any()):  # all rows of a column underflowed, or nearly
        found = kernel.log_masses(f, log_masses).double()
    if not bool((torch.isfinite(found) | (kernel.b == 0)).all()):
        raise SotuneError(
            f"Sinkhorn met a non-finite value with epsilon {kernel.epsilon}; raise epsilon, or use float64"
        )
    return found


def _l1_error(kernel: Kernel, log_mass: Tensor) -> float:
    return 0.0 if kernel.relaxation == 0 else float((log_mass.exp() - kernel.target).abs().sum())
