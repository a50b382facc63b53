r"""The push-pull objective, its value and its two gradients.

``F(w) = Σ_k s_k·OT(w, Q_k) + τ·KL(w ‖ u)`` over the simplex, where ``s_k`` is positive for a safe anchor and negative
for a harmful reference: with one of each, ``1 − λ`` and ``−λ`` (Eq. 5, with a term that holds the weights near the
base mass ``u``). ``OT`` is the regularized value ``⟨P, C⟩ + ε·KL(P ‖ a⊗b)``, whose derivative by a row's mass is that
row's dual potential, up to one constant for all rows: no differentiation through iterations. The paper's own
objective, the sharp cost ``⟨P*, C⟩`` of Eq. 6, needs one linear system on top, see `sharp_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sotune.errors import ConfigError, DataError
from sotune.transport import ALL_ROWS, CostMatrix, Kernel, Shards, SinkhornResult, SinkhornSolver
from sotune.transport.kernel import check_epsilon, check_masses, check_relaxation

Side = Literal["pull", "push"]


@dataclass(frozen=True)
class Reference:
    """A set that the weighted rows are pulled to or pushed from.

    Attributes:
        side: ``pull`` for a safe anchor, ``push`` for a harmful reference.
        cost: Ground cost from the downstream rows, ``[n, m]``.
        strength: Factor of its transport cost in the objective, ≥ 0.
        relaxation: See `sotune.transport.Kernel`: infinite for balanced transport, 0 for free column sums.
        mass: Of its own rows, ``[m]``, sum 1; ``None``: equal mass (Eq. 4).

    Raises:
        ConfigError: A number is out of range.
    """

    side: Side
    cost: CostMatrix
    strength: float
    relaxation: float = math.inf
    mass: Tensor | None = None

    def __post_init__(self) -> None:
        check_relaxation(self.relaxation)
        if not (self.strength >= 0 and math.isfinite(self.strength)):
            raise ConfigError(f"the strength of a reference must be a number ≥ 0. Got {self.strength}")

    @property
    def sign(self) -> int:
        """1 for pull, −1 for push."""
        return 1 if self.side == "pull" else -1

    @property
    def b(self) -> Tensor:
        """Mass of its rows, ``[m]``."""
        m = self.cost.shape[1]
        if self.mass is not None:
            return self.mass.to(dtype=self.cost.dtype, device=self.cost.device)
        return torch.full((m,), 1 / m, dtype=self.cost.dtype, device=self.cost.device)


@dataclass(frozen=True)
class PushPullProblem:
    """Downstream rows between safe anchors, which pull, and harmful references, which push.

    Attributes:
        references: At least one.
        epsilon: Entropic strength of all transports, > 0, in units of cost.
        base_mass: ``u``, ``[n]``, > 0, sum 1: the weights that no evidence would change.
        shards: Which rows are this process's.

    Raises:
        ConfigError: ``epsilon`` is not positive.
        DataError: There is no reference, the costs disagree about ``n``, or the base mass is no positive distribution.
    """

    references: tuple[Reference, ...]
    epsilon: float
    base_mass: Tensor
    shards: Shards = ALL_ROWS

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if not self.references:
            raise DataError("a push-pull problem needs at least one reference")
        sizes = {reference.cost.shape[0] for reference in self.references}
        if len(sizes) != 1:
            raise DataError(f"all costs must have one row for each downstream row. Got {sorted(sizes)} rows")
        check_masses(self.base_mass, self.n, name="base_mass")
        if not bool((self.base_mass > 0).all()):
            raise DataError("base_mass must be positive; leave out rows that should not count")

    @classmethod
    def between(
        cls, pull_cost: CostMatrix, push_cost: CostMatrix, *, epsilon: float, push_strength: float, base_mass: Tensor
    ) -> PushPullProblem:
        """Returns the paper's problem: one anchor with strength ``1 − λ``, one harmful reference with ``λ``.

        Raises:
            ConfigError: λ is outside [0, 1].
        """
        if not 0 <= push_strength <= 1:
            raise ConfigError(f"push_strength must be in [0, 1]. Got {push_strength}")
        pull = Reference("pull", pull_cost, 1 - push_strength)
        return cls((pull, Reference("push", push_cost, push_strength)), epsilon, base_mass)

    @property
    def n(self) -> int:
        """How many downstream rows there are."""
        return self.references[0].cost.shape[0]

    @property
    def strengths(self) -> tuple[float, ...]:
        """``s_k``: the strength of each reference, negative where it pushes."""
        return tuple(reference.sign * reference.strength for reference in self.references)

    @property
    def rounding(self) -> float:
        """How far apart the gradients of equal rows may lie, in units of cost."""
        return sum(reference.strength * reference.cost.rounding for reference in self.references)

    def combine(self, potentials: Sequence[Tensor]) -> Tensor:
        """Returns ``G = Σ_k s_k·f^k``, ``[k]`` for potentials ``[k]``, in units of cost."""
        gradient = self.strengths[0] * potentials[0]
        for strength, potential in zip(self.strengths[1:], potentials[1:], strict=True):
            gradient = gradient + strength * potential
        return gradient

    def kernels(self, *, stored: bool, potentials: Sequence[Tensor] | None = None) -> list[Kernel]:
        """Returns a kernel for each reference, at the given column potentials or at zero."""
        return [
            Kernel(
                reference.cost,
                reference.b,
                self.epsilon,
                relaxation=reference.relaxation,
                g=None if potentials is None else potentials[number],
                stored=stored,
                shards=self.shards,
            )
            for number, reference in enumerate(self.references)
        ]

    def take(self, positions: Tensor) -> PushPullProblem:
        """Returns the same problem for some of the rows."""
        mass = self.base_mass[positions]
        references = tuple(replace(r, cost=r.cost.take(positions)) for r in self.references)
        return PushPullProblem(references, self.epsilon, mass / mass.sum())


@dataclass(frozen=True)
class Evaluation:
    """The transport part of the objective at some weights.

    Attributes:
        value: ``Σ_k s_k·OT(w, Q_k)``, in units of cost, without the tau term.
        gradient: ``G = Σ_k s_k·f^k``, ``[n]``; its level is arbitrary.
        solved: Potentials towards each reference.
    """

    value: float
    gradient: Tensor
    solved: tuple[SinkhornResult, ...]

    @property
    def converged(self) -> bool:
        """Whether all transports reached their tolerance."""
        return all(result.converged for result in self.solved)

    @property
    def n_iters(self) -> int:
        """Sinkhorn iterations spent on all transports."""
        return sum(result.n_iters for result in self.solved)


class PushPullObjective:
    """Evaluates the transport part of the objective, warm-started from one set of weights to the next.

    Args:
        problem: What is weighed against what.
        tolerance: L1 column error to which each transport is solved.
        max_iters: Sinkhorn iterations that one transport may take.
        kernels: The problem's kernels, to go on from where they stand; made here by default.
    """

    def __init__(
        self, problem: PushPullProblem, *, tolerance: float, max_iters: int, kernels: Sequence[Kernel] | None = None
    ) -> None:
        self.problem = problem
        self._tolerance, self._max_iters = tolerance, max_iters
        self._solvers = [SinkhornSolver(kernel) for kernel in kernels or problem.kernels(stored=True)]

    def evaluate(self, weights: Tensor) -> Evaluation:
        """Solves all transports at the weights ``[n]``."""
        solved = tuple(
            solver.solve(weights, tolerance=self._tolerance, max_iters=self._max_iters) for solver in self._solvers
        )
        # OT(w, Q) = ⟨f, w⟩ + what g brings to the dual. It is the largest such value over g, so at the solution a
        # change of w moves it through ⟨f, w⟩ alone: ∂OT/∂w_i = f_i (envelope theorem), and no iteration is unrolled.
        value = sum(
            strength * (float(result.f.double() @ weights.double()) + solver.kernel.dual_value())
            for strength, solver, result in zip(self.problem.strengths, self._solvers, solved, strict=True)
        )
        return Evaluation(value=value, gradient=self.problem.combine([result.f for result in solved]), solved=solved)


def kl_divergence(weights: Tensor, base_mass: Tensor) -> float:
    """Returns ``KL(w ‖ u) = Σ w log(w / u)``, with ``0 log 0 = 0``, in nats.

    >>> round(kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), 4)
    0.6931
    """
    w, u = weights.double(), base_mass.double()
    return float(torch.special.xlogy(w, w / u).sum())


def sharp_cost(cost: CostMatrix, plan: Tensor) -> float:
    """Returns ``⟨P, C⟩`` (Eq. 6), without the entropy term."""
    return float((plan * cost.rows(0, cost.shape[0])).sum(dtype=torch.float64))


def sharp_gradient(cost: CostMatrix, plan: Tensor, *, tolerance: float, max_iters: int) -> Tensor:
    r"""Returns the derivative of ``⟨P*(w), C⟩`` by the row masses, by implicit differentiation.

    With row and column totals ``r_i = Σ_j P_ij C_ij``, ``c_j = Σ_i P_ij C_ij`` and the optimality conditions of
    Sinkhorn, the derivative is ``(r − P q) / w``, where ``q`` solves ``(D_b − Pᵀ D_w⁻¹ P) q = c − Pᵀ D_w⁻¹ r``.
    The system is positive semi-definite with the constants as its null space; conjugate gradients solve it with two
    products with ``P`` an iteration. Like every derivative on the simplex it is known up to one constant, which is
    fixed here so that its mean is 0.

    Args:
        cost: Ground cost ``[n, m]``.
        plan: Optimal coupling ``[n, m]``, with positive row sums.
        tolerance: Relative residual of the linear system.
        max_iters: Conjugate-gradient iterations.

    Returns:
        The gradient, ``[n]``, in units of cost.
    """
    # Differentiating both optimality conditions of Sinkhorn by w, and eliminating the row potential, leaves one
    # system over the columns (docs/method.md, "The sharp form of the paper").
    paid = plan * cost.rows(0, cost.shape[0])
    w, b = plan.sum(dim=1), plan.sum(dim=0)
    row_total, column_total = paid.sum(dim=1), paid.sum(dim=0)
    right = column_total - plan.T @ (row_total / w)
    q = _conjugate_gradients(
        lambda v: b * v - plan.T @ ((plan @ v) / w), right, diagonal=b, tolerance=tolerance, max_iters=max_iters
    )
    gradient = (row_total - plan @ q) / w
    return gradient - gradient.mean()


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, diagonal: Tensor, tolerance: float, max_iters: int
) -> Tensor:
    solution = torch.zeros_like(right)
    residual = right - right.mean()  # the component along the null space has no meaning
    scaled = residual / diagonal  # preconditioned by D_b, most of the system's diagonal
    direction = scaled.clone()
    energy = residual @ scaled
    target = float(energy) * tolerance**2
    for _ in range(max_iters):
        if float(energy) <= target or float(energy) == 0.0:
            break
        image = apply(direction)
        step = energy / (direction @ image)
        solution += step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        previous, energy = energy, residual @ scaled
        direction = scaled + (energy / previous) * direction
    return solution
