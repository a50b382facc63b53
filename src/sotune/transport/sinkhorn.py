r"""Sinkhorn's algorithm for one transport problem: fast in scaling form, safe at small epsilon, restartable.

Each iteration is one `sweep`, so row sums are exact and the L1 error of the column sums is the error of the whole
plan. Between sweeps the column potential is extrapolated, see `Extrapolation`.

References: Cuturi, "Sinkhorn Distances" (NeurIPS 2013); Schmitzer, "Stabilized Sparse Scaling Algorithms for
Entropy Regularized Transport Problems" (SIAM J. Sci. Comput. 2019), for the absorption; Chizat, Peyré, Schmitzer and
Vialard, "Scaling Algorithms for Unbalanced Optimal Transport Problems" (Math. Comp. 2018), and Séjourné, Vialard and
Peyré, "Faster Unbalanced Optimal Transport: Translation Invariant Sinkhorn" (AISTATS 2022), for relaxed columns.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sotune.errors import ConvergenceWarning
from sotune.transport.cost import CostMatrix, DenseCost, row_blocks
from sotune.transport.kernel import Kernel, check_epsilon, check_masses, check_relaxation, column_value
from sotune.transport.sweep import Extrapolation, sweep


@dataclass(frozen=True)
class OTProblem:
    """Entropic transport between two discrete distributions.

    Attributes:
        cost: Ground cost ``[n, m]``, a tensor or a `CostMatrix`.
        a: Row masses ``[n]``, ≥ 0, sum 1.
        b: Column masses ``[m]``, ≥ 0, sum 1.
        epsilon: Strength of the entropy, > 0, in units of cost.
        reference_relaxation: Strength ρ of ``ρ·KL(column sums ‖ b)``, ≥ 0; infinite (the default) demands that the
            column sums are ``b``, 0 leaves them free.

    Raises:
        DataError: Shapes disagree, or masses are negative or do not sum to 1.
        ConfigError: ``epsilon`` is not positive, or the relaxation is negative.
    """

    cost: CostMatrix | Tensor
    a: Tensor
    b: Tensor
    epsilon: float
    reference_relaxation: float = math.inf

    def __post_init__(self) -> None:
        if isinstance(self.cost, Tensor):
            object.__setattr__(self, "cost", DenseCost(self.cost))
        check_epsilon(self.epsilon)
        check_relaxation(self.reference_relaxation)
        n, m = self.cost_matrix.shape
        check_masses(self.a, n, name="a")
        check_masses(self.b, m, name="b")

    @property
    def cost_matrix(self) -> CostMatrix:
        """The cost, as blocks of rows."""
        return cast(CostMatrix, self.cost)


@dataclass(frozen=True)
class SinkhornResult:
    """Dual potentials of a transport problem.

    Attributes:
        f: Row potential ``[n]``, in units of cost; makes the row sums exact.
        g: Column potential ``[m]``.
        marginal_error: ``Σ_j |Σ_i plan_ij − b_j|``, the L1 error of the column sums; where they are relaxed, their
            distance from ``b·exp(−g / ρ)``, which they reach at the solution.
        n_iters: Iterations done, each one pass over the rows and one update of both sides.
        converged: Whether ``marginal_error`` reached the tolerance.
    """

    f: Tensor
    g: Tensor
    marginal_error: float
    n_iters: int
    converged: bool


def sinkhorn(
    problem: OTProblem,
    *,
    tolerance: float,
    max_iters: int,
    init_g: Tensor | None = None,
    stored: bool = True,
) -> SinkhornResult:
    """Solves an entropic transport problem.

    >>> half = torch.tensor([0.5, 0.5])
    >>> problem = OTProblem(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), half, half, epsilon=1.0)
    >>> result = sinkhorn(problem, tolerance=1e-6, max_iters=100)
    >>> transport_plan(problem, result)
    tensor([[0.3655, 0.1345],
            [0.1345, 0.3655]])

    Args:
        problem: What to solve.
        tolerance: Stop when the L1 error of the column sums is at most this.
        max_iters: Stop after so many iterations all the same, with a `ConvergenceWarning`.
        init_g: Column potential to start from ``[m]``; zero by default. A good one saves iterations.
        stored: Keep the kernel, ``n·m`` numbers; or compute its blocks anew at each iteration, in little memory.

    Raises:
        SotuneError: A column sum is not finite.
    """
    relaxation = problem.reference_relaxation
    kernel = Kernel(
        problem.cost_matrix, problem.b, problem.epsilon, relaxation=relaxation, g=init_g, stored=stored
    )  # fmt: skip
    result = SinkhornSolver(kernel).solve(problem.a, tolerance=tolerance, max_iters=max_iters)
    if not result.converged:
        warnings.warn(
            f"Sinkhorn stopped after {result.n_iters} iterations with a column error of {result.marginal_error:.1e}, "
            f"above the tolerance {tolerance:.1e}; raise max_iters or epsilon ({problem.epsilon})",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


class SinkhornSolver:
    """A solver for one cost and one set of columns, which keeps its state between row masses.

    The kernel does not depend on the row masses ``a``, so a solver that is asked again for slightly different
    masses starts from where it stood and needs few iterations.

    Args:
        kernel: Cost, columns and the potential to start from.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def solve(self, a: Tensor, *, tolerance: float, max_iters: int) -> SinkhornResult:
        """Solves for row masses ``a`` ``[n]``, from the potentials of the last call.

        Raises:
            DataError: ``a`` is not a distribution over the rows.
            SotuneError: A column sum is not finite.
        """
        kernel = self.kernel
        check_masses(a, kernel.cost.shape[0], name="a")
        log_masses = a.to(dtype=kernel.cost.dtype, device=kernel.cost.device).log()
        # In the metric b an error of g counts as much as the mass of its column, like the error that is reported.
        extrapolation = Extrapolation(kernel.b)
        n_iters = 0
        while True:
            found = sweep([kernel], lambda start, stop, _: log_masses[start:stop])
            n_iters += 1
            # One update at least, so that new masses are answered by new potentials; none after the last sweep, or f
            # would belong to another g than the one returned.
            if n_iters >= max_iters or (n_iters > 1 and found.errors[0] <= tolerance) or kernel.relaxation == 0:
                break
            kernel.move(extrapolation.next(kernel.g, found.changes[0], found.errors[0]))
        return SinkhornResult(
            f=found.f[0],
            g=kernel.g.to(kernel.cost.dtype),
            marginal_error=found.errors[0],
            n_iters=n_iters,
            converged=found.errors[0] <= tolerance,
        )


def extend_potential(cost: CostMatrix, g: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """Returns the row potential that a column potential implies, for rows seen or unseen.

    ``f(z) = −ε log Σ_j b_j exp((g_j − c(z, z_j)) / ε)``: the row update of Sinkhorn, which needs no row masses.

    >>> nowhere = torch.zeros(2)
    >>> extend_potential(DenseCost(torch.tensor([[0.0, 1.0], [3.0, 3.0]])), nowhere, torch.tensor([0.5, 0.5]), 1.0)
    tensor([0.3799, 3.0000])

    Args:
        cost: Ground cost between any rows and the columns, ``[n, m]``.
        g: Column potential ``[m]``.
        b: Column masses ``[m]``.
        epsilon: The epsilon that ``g`` was solved with.

    Returns:
        ``f``, ``[n]``.
    """
    shifted = g / epsilon + b.log()
    return torch.cat(
        [
            (cost.rows(start, stop).div_(-epsilon).add_(shifted)).logsumexp(dim=1).mul_(-epsilon)
            for start, stop in row_blocks(cost)
        ]
    )


def column_error(cost: CostMatrix, f: Tensor, g: Tensor, a: Tensor, b: Tensor, epsilon: float) -> float:
    """Returns ``Σ_j |Σ_i plan_ij − b_j|`` of any potentials at any row masses, computed afresh.

    >>> half, f = torch.tensor([0.5, 0.5]), torch.zeros(2)
    >>> column_error(DenseCost(torch.zeros(2, 2)), f, torch.zeros(2), half, half, 1.0)
    0.0
    """
    sums = torch.zeros_like(g)
    for start, stop in row_blocks(cost):
        plan = cost.rows(start, stop).neg_().add_(g).add_(f[start:stop, None]).div_(epsilon).exp_()
        sums += a[start:stop].to(plan.dtype) @ plan
    return float((b * (sums - 1).abs()).sum())


def transport_plan(problem: OTProblem, result: SinkhornResult) -> Tensor:
    """Returns the coupling ``[n, m]`` in full: ``a·b·exp((f + g − cost) / epsilon)``.

    >>> half = torch.tensor([0.5, 0.5])
    >>> problem = OTProblem(torch.zeros(2, 2), half, half, epsilon=0.1)
    >>> transport_plan(problem, sinkhorn(problem, tolerance=1e-6, max_iters=10))
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])
    """
    n, _ = problem.cost_matrix.shape
    cost = problem.cost_matrix.rows(0, n)
    scaled = ((result.f[:, None] + result.g - cost) / problem.epsilon).exp_()
    return scaled.mul_(problem.a[:, None]).mul_(problem.b)


def regularized_cost(problem: OTProblem, result: SinkhornResult) -> float:
    """Returns ``⟨P, C⟩ + ε·KL(P ‖ a⊗b)``, and ``ρ·KL(column sums ‖ b)`` with it, from the potentials alone.

    That is ``⟨f, a⟩ + ⟨g, b⟩``, or ``⟨f, a⟩ − ρ·⟨b, exp(−g / ρ) − 1⟩`` for relaxed columns. Exact once the potentials
    are; the sums are made in float64.

    >>> half = torch.tensor([0.5, 0.5])
    >>> problem = OTProblem(torch.full((2, 2), 3.0), half, half, epsilon=0.1)
    >>> round(regularized_cost(problem, sinkhorn(problem, tolerance=1e-6, max_iters=10)), 4)
    3.0
    """
    column_part = column_value(result.g.double(), problem.b.double(), problem.reference_relaxation)
    return float(result.f.double() @ problem.a.double()) + column_part
