"""What a weight solver is told and what it hands back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from sotune.errors import ConfigError
from sotune.transport import SinkhornResult

SolverName = Literal["mirror", "one_step", "adam_sharp"]
SOLVER_NAMES: tuple[SolverName, ...] = ("mirror", "one_step", "adam_sharp")


@dataclass(frozen=True)
class SolverSettings:
    """How the weights are solved. No value has a default here; the defaults live in the configuration.

    Attributes:
        solver: ``mirror`` solves to stationarity; ``one_step`` takes the first gradient only; ``adam_sharp`` is the
            published recipe.
        epsilon: Entropic strength of both transports, > 0, in units of cost.
        push_strength: The paper's λ, in [0, 1].
        effective_sample_size: Which tau to find: the one whose weights have this effective sample size, in (0, 1).
        tau: Strength of ``KL(w ‖ u)``, > 0; instead of finding it. ``None`` finds it.
        stationarity_tolerance: Largest ``|log w_i − log u_i + G_i / tau − const|`` that counts as solved.
        marginal_tolerance: L1 column error to which each transport is solved.
        max_steps: Outer steps at most; for ``adam_sharp`` the exact number (the paper's E1).
        max_iters: Sinkhorn iterations at most, for each transport at each outer step.
        learning_rate: Adam's step size on the logits; used by ``adam_sharp`` alone.

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

    def __post_init__(self) -> None:
        if self.solver not in SOLVER_NAMES:
            raise ConfigError(f"solver must be one of {', '.join(SOLVER_NAMES)}. Got {self.solver!r}")
        if not 0 < self.effective_sample_size < 1:
            raise ConfigError(
                f"effective_sample_size must be between 0 and 1, both excluded. Got {self.effective_sample_size}; "
                f"1 would mean equal weights for all rows"
            )
        for name in ("stationarity_tolerance", "marginal_tolerance", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive. Got {getattr(self, name)}")
        if self.tau is not None and not (math.isfinite(self.tau) and self.tau > 0):
            raise ConfigError(f"tau must be positive. Got {self.tau}; without it the weights have no fixed point")
        for name in ("max_steps", "max_iters"):
            if getattr(self, name) < 1:
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
class LearnedWeights:
    """Weights of the downstream rows, with everything that explains and extends them.

    Attributes:
        weights: On the simplex, ``[n]``.
        pull: Potentials towards the safe anchor.
        push: Potentials towards the harmful reference.
        pull_cost: Mean cost of each row to the anchor under the plan, ``[n]``, in units of cost.
        push_cost: The same to the harmful reference.
        objective: Value of the objective that the solver minimizes, in units of cost.
        tau: Strength of the KL term; ``None`` where the objective has none (``adam_sharp``).
        log_normalizer: ``log Σ_i u_i exp(−G_i / tau)``: what unseen rows are scored with; ``None`` without tau.
        stationarity: ``max_i |log w_i − log u_i + G_i / tau − const|`` at the last step; ``None`` without tau.
        effective_sample_size: ``1 / Σ w²/u``, in (0, 1].
        n_steps: Outer steps.
        n_sinkhorn_iters: Sinkhorn iterations of both transports, over all steps.
        converged: Whether the solver reached what it set out for: for ``mirror`` stationarity, and both transports.
        history: One entry for each outer step.
    """

    weights: Tensor
    pull: SinkhornResult
    push: SinkhornResult
    pull_cost: Tensor
    push_cost: Tensor
    objective: float
    tau: float | None
    log_normalizer: float | None
    stationarity: float | None
    effective_sample_size: float
    n_steps: int
    n_sinkhorn_iters: int
    converged: bool
    history: tuple[Step, ...]
