"""From three sets of representations to one weight for each downstream row."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sotune.errors import ConfigError, ConvergenceWarning
from sotune.transport import COSTS
from sotune.weights.adam import solve_adam_sharp
from sotune.weights.mirror import solve_mirror, solve_one_step
from sotune.weights.objective import PushPullProblem
from sotune.weights.solution import LearnedWeights, OnStep, SolverName, SolverSettings, Step

__all__ = ["LearnedWeights", "SolverSettings", "learn_weights"]

_SOLVERS = {"mirror": solve_mirror, "one_step": solve_one_step, "adam_sharp": solve_adam_sharp}


def learn_weights(
    downstream: Tensor,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    *,
    settings: SolverSettings,
    cost: str,
    base_mass: Tensor | None = None,
    on_step: OnStep | None = None,
) -> LearnedWeights:
    """Learns push-pull weights (Eq. 5; the tau term is ours).

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        settings: How to solve.
        cost: Name of the ground cost, a key of `sotune.transport.COSTS`.
        base_mass: Weights that no evidence would change, ``[n]``, sum 1; uniform by default.
        on_step: Called after each outer step.

    Raises:
        DataError: Representations are not finite, of different width, or empty.
        ConfigError: The cost is unknown, or a setting is out of range.
    """
    if cost not in COSTS:
        raise ConfigError(f"cost must be one of {', '.join(sorted(COSTS))}. Got {cost!r}")
    make_cost = COSTS[cost]
    n = downstream.shape[0]
    uniform = torch.full((n,), 1 / n, dtype=downstream.dtype, device=downstream.device)
    problem = PushPullProblem(
        pull_cost=make_cost(downstream, safe_anchor),
        push_cost=make_cost(downstream, harmful_reference),
        epsilon=settings.epsilon,
        push_strength=settings.push_strength,
        base_mass=uniform if base_mass is None else base_mass.to(downstream),
    )
    return solve(problem, settings, on_step=on_step)


def solve(problem: PushPullProblem, settings: SolverSettings, *, on_step: OnStep | None = None) -> LearnedWeights:
    """Solves a problem whose costs exist; warns when the solver stopped short."""
    learned = _SOLVERS[settings.solver](problem, settings, on_step or _ignore)
    if not learned.converged:
        warnings.warn(
            f"the {_describe(settings.solver)} stopped after {learned.n_steps} steps and {learned.n_sinkhorn_iters} "
            f"Sinkhorn iterations short of its tolerances: stationarity {learned.stationarity}, column errors "
            f"{learned.pull.marginal_error:.1e} (pull) and {learned.push.marginal_error:.1e} (push); raise max_steps, "
            f"max_iters, epsilon or effective_sample_size",
            ConvergenceWarning,
            stacklevel=2,
        )
    return learned


def _describe(solver: SolverName) -> str:
    return f"weight solver {solver!r}"


def _ignore(_: Step) -> None:
    """Does nothing with a step."""
