r"""The push-pull objective, its value and its two gradients.

``F(w) = (1 − λ)·OT(w, Q) − λ·OT(w, M) + τ·KL(w ‖ u)`` over the simplex (Eq. 5, with a term that holds the weights
near the base mass ``u``). ``OT`` is the regularized value ``⟨P, C⟩ + ε·KL(P ‖ a⊗b)``, whose derivative by a row's
mass is that row's dual potential, up to one constant for all rows: no differentiation through iterations. The
paper's own objective, the sharp cost ``⟨P*, C⟩`` of Eq. 6, needs one linear system on top, see `sharp_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import ConfigError, DataError
from sotune.transport import GroundCost, SinkhornResult, SinkhornSolver
from sotune.transport.sinkhorn import check_epsilon, check_masses


@dataclass(frozen=True)
class PushPullProblem:
    """Downstream rows between a safe anchor, which pulls, and a harmful reference, which pushes.

    Attributes:
        pull_cost: Ground cost to the safe anchor, ``[n, m_safe]``.
        push_cost: Ground cost to the harmful reference, ``[n, m_harmful]``.
        epsilon: Entropic strength of both transports, > 0, in units of cost.
        push_strength: The paper's λ, in [0, 1].
        base_mass: ``u``, ``[n]``, > 0, sum 1: the weights that no evidence would change.

    Raises:
        ConfigError: λ is outside [0, 1].
        DataError: The costs disagree about ``n``, or the base mass is not a positive distribution.
    """

    pull_cost: GroundCost
    push_cost: GroundCost
    epsilon: float
    push_strength: float
    base_mass: Tensor

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if not 0 <= self.push_strength <= 1:
            raise ConfigError(f"push_strength must be in [0, 1]. Got {self.push_strength}")
        if self.pull_cost.shape[0] != self.push_cost.shape[0]:
            raise DataError(
                f"both costs must have one row for each downstream row. "
                f"Got {self.pull_cost.shape[0]} and {self.push_cost.shape[0]}"
            )
        check_masses(self.base_mass, self.n, name="base_mass")
        if not bool((self.base_mass > 0).all()):
            raise DataError("base_mass must be positive; leave out the rows that should count for nothing")

    @property
    def n(self) -> int:
        """How many downstream rows there are."""
        return self.pull_cost.shape[0]

    @property
    def pull_b(self) -> Tensor:
        """Uniform mass on the safe anchor, ``[m_safe]`` (Eq. 4)."""
        return _uniform(self.pull_cost)

    @property
    def push_b(self) -> Tensor:
        """Uniform mass on the harmful reference, ``[m_harmful]`` (Eq. 4)."""
        return _uniform(self.push_cost)

    def combine(self, pull_f: Tensor, push_f: Tensor) -> Tensor:
        """Returns ``G = (1 − λ)·f^pull − λ·f^push``, in units of cost."""
        return (1 - self.push_strength) * pull_f - self.push_strength * push_f


@dataclass(frozen=True)
class Evaluation:
    """The transport part of the objective at some weights.

    Attributes:
        value: ``(1 − λ)·OT(w, Q) − λ·OT(w, M)``, in units of cost, without the tau term.
        gradient: ``G_i = (1 − λ)·f^pull_i − λ·f^push_i``, ``[n]``; its level is arbitrary.
        pull: Potentials towards the safe anchor.
        push: Potentials towards the harmful reference.
    """

    value: float
    gradient: Tensor
    pull: SinkhornResult
    push: SinkhornResult

    @property
    def converged(self) -> bool:
        """Whether both transports reached their tolerance."""
        return self.pull.converged and self.push.converged

    @property
    def n_iters(self) -> int:
        """Sinkhorn iterations spent on both transports."""
        return self.pull.n_iters + self.push.n_iters


class PushPullObjective:
    """Evaluates the transport part of the objective, warm-started from one set of weights to the next.

    Args:
        problem: What is weighed against what.
        tolerance: L1 column error to which each transport is solved.
        max_iters: Sinkhorn iterations that one transport may take.
    """

    def __init__(self, problem: PushPullProblem, *, tolerance: float, max_iters: int) -> None:
        self.problem = problem
        self._tolerance, self._max_iters = tolerance, max_iters
        self._pull = SinkhornSolver(problem.pull_cost, problem.pull_b, problem.epsilon)
        self._push = SinkhornSolver(problem.push_cost, problem.push_b, problem.epsilon)

    def evaluate(self, weights: Tensor) -> Evaluation:
        """Solves both transports at the weights ``[n]``."""
        pull = self._pull.solve(weights, tolerance=self._tolerance, max_iters=self._max_iters)
        push = self._push.solve(weights, tolerance=self._tolerance, max_iters=self._max_iters)
        strength = self.problem.push_strength
        return Evaluation(
            value=(1 - strength) * _dual_value(pull, weights) - strength * _dual_value(push, weights),
            gradient=self.problem.combine(pull.f, push.f),
            pull=pull,
            push=push,
        )


def kl_divergence(weights: Tensor, base_mass: Tensor) -> float:
    """Returns ``KL(w ‖ u) = Σ w log(w / u)``, with ``0 log 0 = 0``, in nats."""
    w, u = weights.double(), base_mass.double()
    return float(torch.special.xlogy(w, w / u).sum())


def effective_sample_size(log_weights: Tensor, base_mass: Tensor) -> float:
    """Returns ``1 / Σ w²/u``, in (0, 1]: 1 for ``w = u``; for a uniform ``u`` the usual ``1 / (n Σ w²)``."""
    log_w, log_base = log_weights.double(), base_mass.double().log()
    concentration: Tensor = torch.logsumexp(2 * log_w - log_base, dim=0)
    return math.exp(-float(concentration))


def sharp_cost(cost: GroundCost, plan: Tensor) -> float:
    """Returns ``⟨P, C⟩`` (Eq. 6), without the entropy term."""
    return float((plan * cost.rows(0, cost.shape[0])).sum(dtype=torch.float64))


def sharp_gradient(cost: GroundCost, plan: Tensor, *, tolerance: float, max_iters: int) -> Tensor:
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
    scaled = residual / diagonal
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


def _uniform(cost: GroundCost) -> Tensor:
    m = cost.shape[1]
    return torch.full((m,), 1 / m, dtype=cost.dtype, device=cost.device)


def _dual_value(result: SinkhornResult, weights: Tensor) -> float:
    return float(result.f.double() @ weights.double() + result.g.double().mean())
