r"""Sinkhorn's algorithm: fast in scaling form, safe at small epsilon, restartable.

The scaling form keeps a kernel about reference potentials, ``K = exp((f₀ + g₀ − C) / ε)``, and iterates
``u = 1 / (K (b·v))``, ``v = 1 / (Kᵀ (a·u))`` with ``f = f₀ + ε log u``, ``g = g₀ + ε log v``. When a scaling leaves
the safe range of the number type, its logarithm is absorbed into ``f₀``, ``g₀`` and the kernel is built anew; where
a column has lost all its mass to underflow, that update is made in the log domain. Each iteration ends on the row
update, so row sums are exact and the L1 error of the column sums is the error of the whole plan.

References: Cuturi, "Sinkhorn Distances" (NeurIPS 2013); Schmitzer, "Stabilized Sparse Scaling Algorithms for
Entropy Regularized Transport Problems" (SIAM J. Sci. Comput. 2019), for the absorption.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from sotune.errors import ConfigError, ConvergenceWarning, DataError, SotuneError
from sotune.transport.cost import DenseCost, GroundCost, row_blocks

Form = Literal["kernel", "log"]


@dataclass(frozen=True)
class OTProblem:
    """Entropic transport between two discrete distributions.

    Attributes:
        cost: Ground cost ``[n, m]``, a tensor or a `GroundCost`.
        a: Row masses ``[n]``, ≥ 0, sum 1.
        b: Column masses ``[m]``, ≥ 0, sum 1.
        epsilon: Strength of the entropy, > 0, in units of cost.

    Raises:
        DataError: Shapes disagree, or masses are negative or do not sum to 1.
        ConfigError: ``epsilon`` is not positive.
    """

    cost: GroundCost | Tensor
    a: Tensor
    b: Tensor
    epsilon: float

    def __post_init__(self) -> None:
        if isinstance(self.cost, Tensor):
            object.__setattr__(self, "cost", DenseCost(self.cost))
        check_epsilon(self.epsilon)
        n, m = self.ground_cost.shape
        check_masses(self.a, n, name="a")
        check_masses(self.b, m, name="b")

    @property
    def ground_cost(self) -> GroundCost:
        """The cost, as blocks of rows."""
        return cast(GroundCost, self.cost)


@dataclass(frozen=True)
class SinkhornResult:
    """Dual potentials of a transport problem.

    Attributes:
        f: Row potential ``[n]``, in units of cost; makes the row sums exact.
        g: Column potential ``[m]``.
        marginal_error: ``Σ_j |Σ_i plan_ij − b_j|``, the L1 error of the column sums.
        n_iters: Iterations done, each one update of both sides.
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
    form: Form = "kernel",
) -> SinkhornResult:
    """Solves an entropic transport problem.

    Args:
        problem: What to solve.
        tolerance: Stop when the L1 error of the column sums is at most this.
        max_iters: Stop after so many iterations all the same, with a `ConvergenceWarning`.
        init_g: Column potential to start from ``[m]``; zero by default. A good one saves iterations.
        form: ``kernel`` is fast and falls back on the log domain where it must; ``log`` is always there.

    Raises:
        SotuneError: A potential is not finite, which names the iteration and epsilon.
    """
    solver = SinkhornSolver(problem.ground_cost, problem.b, problem.epsilon, init_g=init_g, form=form)
    result = solver.solve(problem.a, tolerance=tolerance, max_iters=max_iters)
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
    masses starts from where it stood and needs few iterations. This is what learning weights does.

    Args:
        cost: Ground cost ``[n, m]``.
        b: Column masses ``[m]``.
        epsilon: Strength of the entropy, > 0, in units of cost.
        init_g: Column potential to start from ``[m]``; zero by default.
        form: See `sinkhorn`.
    """

    def __init__(
        self, cost: GroundCost, b: Tensor, epsilon: float, *, init_g: Tensor | None = None, form: Form = "kernel"
    ) -> None:
        check_epsilon(epsilon)
        check_masses(b, cost.shape[1], name="b")
        if form not in ("kernel", "log"):
            raise ConfigError(f"form must be 'kernel' or 'log'. Got {form!r}")
        self.cost, self.b, self.epsilon = cost, b.to(cost.dtype), epsilon
        self._form = form
        g = torch.zeros_like(self.b) if init_g is None else init_g.to(cost.dtype).clone()
        # Scalings beyond this are absorbed, well before products of two of them could overflow.
        self._limit = math.log(torch.finfo(cost.dtype).max) / 3
        self._kernel: Tensor | None = None
        self._g0, self._v = g, torch.ones_like(g)
        self._f0 = extend_potential(cost, g, self.b, epsilon)

    def solve(self, a: Tensor, *, tolerance: float, max_iters: int) -> SinkhornResult:
        """Solves for row masses ``a`` ``[n]``, from the potentials of the last call.

        Raises:
            DataError: ``a`` is not a distribution over the rows.
            SotuneError: A potential is not finite.
        """
        check_masses(a, self.cost.shape[0], name="a")
        step = self._kernel_step if self._form == "kernel" else self._log_step
        a = a.to(self.cost.dtype)
        error, n_iters = math.inf, 0
        while n_iters < max_iters:
            n_iters += 1
            if n_iters == max_iters:
                bound = math.inf  # g must not move any more, or f would belong to another g than the one returned
            elif n_iters == 1:
                bound = -1.0  # g moves at least once, so that new masses are answered by new potentials
            else:
                bound = tolerance
            f, error, stop = step(a, bound)
            if not math.isfinite(error):
                raise SotuneError(
                    f"Sinkhorn met a non-finite value at iteration {n_iters} with epsilon {self.epsilon}; "
                    f"raise epsilon, or use float64"
                )
            if stop:
                break
        return SinkhornResult(
            f=f, g=self._g0 + self.epsilon * self._v.log(), marginal_error=error, n_iters=n_iters,
            converged=error <= tolerance,
        )  # fmt: skip

    def _kernel_step(self, a: Tensor, tolerance: float) -> tuple[Tensor, float, bool]:
        kernel = self._current_kernel()
        u = (kernel @ (self.b * self._v)).reciprocal_()
        column_sums = kernel.T @ (a * u)
        f = self._f0 + self.epsilon * u.log()
        # All rows of a column can underflow when epsilon is small; its update is then made in the log domain.
        lost = not bool((torch.isfinite(u).all() & (column_sums > 0).all()).item())
        if lost:
            return self._log_step(a, tolerance)
        error = float((self.b * (self._v * column_sums - 1).abs()).sum())
        if error <= tolerance:
            return f, error, True
        self._v = column_sums.reciprocal_()
        if max(float(u.log().abs().max()), float(self._v.log().abs().max())) > self._limit:
            self._absorb(f)
        return f, error, False

    def _log_step(self, a: Tensor, tolerance: float) -> tuple[Tensor, float, bool]:
        """One update in the log domain; the column error is the one before ``g`` moved."""
        g = self._g0 + self.epsilon * self._v.log()
        f = extend_potential(self.cost, g, self.b, self.epsilon)
        new_g = _column_soft_min(self.cost, f, a, self.epsilon)
        # Column sum over its target is exp((g − new_g)/ε), by the fixed point that new_g satisfies.
        error = float((self.b * torch.expm1((g - new_g) / self.epsilon).abs()).sum())
        if error <= tolerance:
            return f, error, True
        self._g0, self._f0, self._v, self._kernel = new_g, f, torch.ones_like(g), None
        return f, error, False

    def _absorb(self, f: Tensor) -> None:
        self._f0 = f
        self._g0 = self._g0 + self.epsilon * self._v.log()
        self._v = torch.ones_like(self._v)
        self._kernel = None

    def _current_kernel(self) -> Tensor:
        if self._kernel is None:
            kernel = torch.empty(self.cost.shape, dtype=self.cost.dtype, device=self.cost.device)
            for start, stop in row_blocks(self.cost):
                block = self.cost.rows(start, stop).neg_().add_(self._g0).add_(self._f0[start:stop, None])
                torch.exp(block.div_(self.epsilon), out=kernel[start:stop])
            self._kernel = kernel
        return self._kernel


def extend_potential(cost: GroundCost, g: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """Returns the row potential that a column potential implies, for rows seen or unseen.

    ``f(z) = −ε log Σ_j b_j exp((g_j − c(z, z_j)) / ε)``: the row update of Sinkhorn, which needs no row masses.

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


def expected_cost(cost: GroundCost, result: SinkhornResult, b: Tensor, epsilon: float) -> Tensor:
    """Returns each row's mean cost under the plan, ``Σ_j plan_ij·C_ij / a_i``, ``[n]``."""
    out = []
    for start, stop in row_blocks(cost):
        block = cost.rows(start, stop)
        conditional = ((result.f[start:stop, None] + result.g - block) / epsilon).exp_().mul_(b)
        out.append((conditional.mul_(block)).sum(dim=1))
    return torch.cat(out)


def column_error(cost: GroundCost, f: Tensor, g: Tensor, a: Tensor, b: Tensor, epsilon: float) -> float:
    """Returns ``Σ_j |Σ_i plan_ij − b_j|`` of any potentials at any row masses, computed afresh."""
    sums = torch.zeros_like(g)
    for start, stop in row_blocks(cost):
        plan = cost.rows(start, stop).neg_().add_(g).add_(f[start:stop, None]).div_(epsilon).exp_()
        sums += a[start:stop].to(plan.dtype) @ plan
    return float((b * (sums - 1).abs()).sum())


def transport_plan(problem: OTProblem, result: SinkhornResult) -> Tensor:
    """Returns the coupling ``[n, m]`` in full: ``a·b·exp((f + g − cost) / epsilon)``."""
    n, _ = problem.ground_cost.shape
    cost = problem.ground_cost.rows(0, n)
    scaled = ((result.f[:, None] + result.g - cost) / problem.epsilon).exp_()
    return scaled.mul_(problem.a[:, None]).mul_(problem.b)


def regularized_cost(problem: OTProblem, result: SinkhornResult) -> float:
    """Returns ``⟨P, C⟩ + ε·KL(P ‖ a⊗b)``, from the potentials alone: ``⟨f, a⟩ + ⟨g, b⟩``.

    Exact once the potentials are; the sums are made in float64.
    """
    return float(result.f.double() @ problem.a.double() + result.g.double() @ problem.b.double())


def _column_soft_min(cost: GroundCost, f: Tensor, a: Tensor, epsilon: float) -> Tensor:
    """Returns ``−ε log Σ_i a_i exp((f_i − C_ij) / ε)``, ``[m]``, one block of rows at a time."""
    shifted = f / epsilon + a.log()
    total = torch.full((cost.shape[1],), -math.inf, dtype=cost.dtype, device=cost.device)
    for start, stop in row_blocks(cost):
        block = cost.rows(start, stop).div_(-epsilon).add_(shifted[start:stop, None])
        total = torch.logaddexp(total, block.logsumexp(dim=0))
    return total.mul_(-epsilon)


def check_epsilon(epsilon: float) -> None:
    """Raises a ConfigError unless ``epsilon`` is a positive number."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon must be a positive number, in units of cost. Got {epsilon}")


def check_masses(mass: Tensor, size: int, *, name: str) -> None:
    """Raises a DataError unless ``mass`` is a distribution over ``size`` points."""
    if mass.shape != (size,):
        raise DataError(f"{name} must hold one mass for each of {size} points. Got shape {tuple(mass.shape)}")
    total = float(mass.double().sum())
    if not (abs(total - 1) < 1e-3 and bool((mass >= 0).all())):
        raise DataError(f"{name} must be non-negative and sum to 1. Got a sum of {total}, least {float(mass.min())}")
