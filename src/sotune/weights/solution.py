"""What a weight solver hands back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.weights.ground_cost import GroundCost
from sotune.weights.objective import Side


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
        b: Mass of its rows, ``[m]``.
        f: Row potential ``[n]``, in units of cost: the row update of ``g``.
        g: Column potential ``[m]``.
        mean_cost: Mean cost of each row to the reference under the plan, ``[n]``.
        marginal_error: L1 error of the column sums at the weights that were solved for.
    """

    side: Side
    strength: float
    b: Tensor
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
        tau: Strength of the KL term; ``None`` where the objective has none (``sharp``).
        log_normalizer: ``log Σ_i u_i exp(−G_i / tau)``: what unseen rows are scored with; ``None`` without tau.
        stationarity: Bound on ``max_i |log w_i − log u_i + G_i / tau − const|``; ``None`` without tau.
        effective_sample_size: ``1 / Σ w²/u``, in (0, 1].
        n_steps: Outer steps.
        n_sinkhorn_iters: Sinkhorn iterations of all transports, over all steps.
        n_passes: Passes over all rows of a streamed solution; 0 where the kernels fitted into memory.
        converged: Whether the solver reached what it set out for: for ``mirror`` stationarity, and all transports.
        history: One entry for each outer step.
        cost: The ground cost, fitted; ``None`` where the problem was given as cost matrices.
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
    cost: GroundCost | None = None

    @property
    def fitted_cost(self) -> GroundCost:
        """The ground cost, fitted, for rows seen or unseen.

        Raises:
            ConfigError: The weights were solved from cost matrices.
        """
        if self.cost is None:
            raise ConfigError(
                "weights that were solved from cost matrices have no ground cost for other rows; "
                "call learn_weights on representations"
            )
        return self.cost

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
