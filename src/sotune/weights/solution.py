"""What a weight solver is told and what it hands back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.transport.kernel import check_relaxation
from sotune.weights.ground_cost import Stretch
from sotune.weights.objective import Side

SolverName = Literal["mirror", "cccp", "one_step", "adam_sharp"]
SOLVER_NAMES: tuple[SolverName, ...] = get_args(SolverName)


@dataclass(frozen=True)
class SolverSettings:
    """How the weights are solved. No value has a default here; the defaults live in the configuration.

    Attributes:
        solver: ``mirror`` solves to stationarity, and so does ``cccp`` by another way; ``one_step`` takes the first
            gradient only; ``adam_sharp`` is the published recipe.
        epsilon: Entropic strength of both transports, > 0, in units of cost.
        push_strength: The paper's λ, in [0, 1].
        effective_sample_size: Which tau to find: the one whose weights have this effective sample size, in (0, 1).
        tau: Strength of ``KL(w ‖ u)``, > 0; instead of finding it. ``None`` finds it.
        stationarity_tolerance: Largest ``|log w_i − log u_i + G_i / tau − const|`` that counts as solved.
        marginal_tolerance: L1 column error to which each transport is solved.
        max_steps: Outer steps at most; for ``adam_sharp`` the exact number (the paper's E1).
        max_iters: Sinkhorn iterations at most, for each transport at each outer step.
        learning_rate: Adam's step size on the logits; used by ``adam_sharp`` alone.
        reference_relaxation: Strength ρ of the penalty on column sums that differ from uniform, for all references;
            infinite demands uniform ones (the paper), 0 leaves them free.
        max_memory: Bytes that kernels may take; a larger problem is streamed. ``None``: what `memory_budget` finds.
        streamed_tolerance: L1 column error on all rows at which streaming stops, where that is above
            ``marginal_tolerance``: a pass over a million rows is dear.

    Raises:
        ConfigError: A value is out of its range.
    """

    solver: SolverName
    epsilon: float
    push_strength: float
    effective_sample_size: float
    tau: float | None
    stationarity_tolerance: float
    marginal_tolerance: float
    max_steps: int
    max_iters: int
    learning_rate: float
    reference_relaxation: float = math.inf
    max_memory: int | None = None
    streamed_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.solver not in SOLVER_NAMES:
            raise ConfigError(f"solver must be one of {', '.join(SOLVER_NAMES)}. Got {self.solver!r}")
        if not 0 < self.effective_sample_size < 1:
            raise ConfigError(
                f"effective_sample_size must be between 0 and 1, both excluded. Got {self.effective_sample_size}; "
                f"1 would mean equal weights for all rows"
            )
        check_relaxation(self.reference_relaxation)
        for name in ("stationarity_tolerance", "marginal_tolerance", "streamed_tolerance", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive. Got {getattr(self, name)}")
        if self.tau is not None and not (math.isfinite(self.tau) and self.tau > 0):
            raise ConfigError(f"tau must be positive. Got {self.tau}; without it the weights have no fixed point")
        for name in ("max_steps", "max_iters", "max_memory"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1. Got {getattr(self, name)}")


@dataclass(frozen=True)
class Step:
    """One outer step, as it is recorded and reported."""

    step: int
    objective: float
    stationarity: float | None
    pull_marginal_error: float
    push_marginal_error: float
    effective_sample_size: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the step as a JSON object."""
        return asdict(self)


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class SolvedReference:
    """One reference with its potentials.

    Attributes:
        side: Whether it pulls or pushes.
        strength: Factor of its transport cost in the objective, ≥ 0.
        f: Row potential ``[n]``, in units of cost: the row update of ``g``.
        g: Column potential ``[m]``.
        mean_cost: Mean cost of each row to the reference under the plan, ``[n]``.
        marginal_error: L1 error of the column sums at the weights that were solved for.
    """

    side: Side
    strength: float
    f: Tensor
    g: Tensor
    mean_cost: Tensor
    marginal_error: float


@dataclass(frozen=True)
class LearnedWeights:
    """Weights of the downstream rows, with everything that explains and extends them.

    Attributes:
        weights: On the simplex, ``[n]``, float64.
        references: Potentials towards each reference, in the order of the problem.
        objective: Value of the objective that the solver minimizes, in units of cost.
        tau: Strength of the KL term; ``None`` where the objective has none (``adam_sharp``).
        log_normalizer: ``log Σ_i u_i exp(−G_i / tau)``: what unseen rows are scored with; ``None`` without tau.
        stationarity: Bound on ``max_i |log w_i − log u_i + G_i / tau − const|``; ``None`` without tau.
        effective_sample_size: ``1 / Σ w²/u``, in (0, 1].
        n_steps: Outer steps.
        n_sinkhorn_iters: Sinkhorn iterations of all transports, over all steps.
        n_passes: Passes over all rows of a streamed solution; 0 where the kernels fitted into memory.
        converged: Whether the solver reached what it set out for: for ``mirror`` stationarity, and all transports.
        history: One entry for each outer step.
        stretch: The learned change of the space; ``None`` for the cosine cost.
    """

    weights: Tensor
    references: tuple[SolvedReference, ...]
    objective: float
    tau: float | None
    log_normalizer: float | None
    stationarity: float | None
    effective_sample_size: float
    n_steps: int
    n_sinkhorn_iters: int
    n_passes: int
    converged: bool
    history: tuple[Step, ...]
    stretch: Stretch | None = None

    @property
    def pull_potential(self) -> Tensor:
        """``f`` towards the safe anchor, ``[n]``; with several, their mean by strength."""
        return self._mean("pull", lambda reference: reference.f)

    @property
    def push_potential(self) -> Tensor:
        """``f`` towards the harmful reference, ``[n]``; with several, their mean by strength."""
        return self._mean("push", lambda reference: reference.f)

    @property
    def pull_cost(self) -> Tensor:
        """Mean cost of each row to the safe anchor, ``[n]``; with several, their mean by strength."""
        return self._mean("pull", lambda reference: reference.mean_cost)

    @property
    def push_cost(self) -> Tensor:
        """Mean cost of each row to the harmful reference, ``[n]``; with several, their mean by strength."""
        return self._mean("push", lambda reference: reference.mean_cost)

    def marginal_error(self, side: Side) -> float:
        """Returns the largest column error of the references of one side; 0 where there are none."""
        return max((r.marginal_error for r in self.references if r.side == side), default=0.0)

    def _mean(self, side: Side, field: Callable[[SolvedReference], Tensor]) -> Tensor:
        return mean_by_strength(
            [(r.strength, field(r)) for r in self.references if r.side == side], like=self.references[0].f
        )


def mean_by_strength(parts: Sequence[tuple[float, Tensor]], *, like: Tensor) -> Tensor:
    """Returns the mean of vectors by their strengths, ``[n]``; NaN where there are none."""
    if not parts:
        return torch.full_like(like, math.nan)
    total = sum(strength for strength, _ in parts)
    shares = [strength / total if total > 0 else 1 / len(parts) for strength, _ in parts]
    return torch.stack([share * vector for share, (_, vector) in zip(shares, parts, strict=True)]).sum(dim=0)
