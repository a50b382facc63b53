"""From representations of the rows and of the references to one weight for each downstream row."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sotune.errors import ConfigError, ConvergenceWarning, DataError
from sotune.transport import Rows
from sotune.weights.adam import solve_adam_sharp
from sotune.weights.cccp import solve_cccp
from sotune.weights.ground_cost import COST_NAMES, Stretch, learn_stretch, stretched_cost
from sotune.weights.mirror import solve_mirror, solve_one_step
from sotune.weights.objective import PushPullProblem, Reference, Side
from sotune.weights.solution import LearnedWeights, OnStep, SolverName, SolverSettings, Step
from sotune.weights.streaming import OnPass, kernel_bytes, memory_budget, solve_streamed

__all__ = ["LearnedWeights", "ReferenceSet", "SolverSettings", "learn_weights"]

_SOLVERS = {
    "mirror": solve_mirror,
    "cccp": solve_cccp,
    "one_step": solve_one_step,
    "adam_sharp": solve_adam_sharp,
}
_STREAMED = ("mirror", "one_step")


@dataclass(frozen=True)
class ReferenceSet:
    """One of several safe anchors or harmful references.

    Attributes:
        representations: ``[m, d]``.
        strength: Its share among those of its side; they are scaled to sum 1.
    """

    representations: Tensor
    strength: float = 1.0


References = Tensor | Sequence[ReferenceSet]


def learn_weights(
    downstream: Rows,
    safe_anchor: References,
    harmful_reference: References,
    *,
    settings: SolverSettings,
    cost: str,
    stretch: Stretch | None = None,
    base_mass: Tensor | None = None,
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> LearnedWeights:
    """Learns push-pull weights (Eq. 5; the tau term is ours).

    Where the kernels do not fit into ``settings.max_memory`` the rows are streamed, in time that is linear in their
    number and in memory that does not depend on it.

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``: a tensor, or files that are read by slices.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``, or several such sets with their strengths.
        harmful_reference: The same of the harmful rows.
        settings: How to solve.
        cost: ``cosine``, the paper's, or ``adaptive``: the same after the space is stretched along the direction that
            tells harm from safety, see `learn_stretch`.
        stretch: For ``adaptive``: a stretch that was learned before, instead of learning one.
        base_mass: Weights that no evidence would change, ``[n]``, sum 1; uniform by default.
        on_step: Called after each outer step.
        on_pass: Called before each pass over streamed rows; what it returns is told of the rows done.

    Raises:
        DataError: Representations are not finite, of different width, or empty.
        ConfigError: The cost is unknown, a setting is out of range, or the solver cannot stream and must.
    """
    if cost not in COST_NAMES:
        raise ConfigError(f"cost must be one of {', '.join(COST_NAMES)}. Got {cost!r}")
    if not 0 <= settings.push_strength <= 1:
        raise ConfigError(f"push_strength must be in [0, 1]. Got {settings.push_strength}")
    anchors, harmful = _reference_sets("pull", safe_anchor), _reference_sets("push", harmful_reference)
    if cost == "cosine":
        stretch = None
    elif stretch is None:
        stretch = learn_stretch(
            downstream, *(torch.cat([s.representations for s in one]) for one in (anchors, harmful))
        )
    n = downstream.shape[0]
    uniform = torch.full((n,), 1 / n, dtype=downstream.dtype, device=downstream.device)
    problem = PushPullProblem(
        (
            *_references("pull", downstream, anchors, stretch, 1 - settings.push_strength, settings),
            *_references("push", downstream, harmful, stretch, settings.push_strength, settings),
        ),
        epsilon=settings.epsilon,
        base_mass=uniform if base_mass is None else base_mass.to(uniform),
    )
    return replace(solve(problem, settings, on_step=on_step, on_pass=on_pass), stretch=stretch)


def solve(
    problem: PushPullProblem,
    settings: SolverSettings,
    *,
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> LearnedWeights:
    """Solves a problem whose costs exist; warns when the solver stopped short.

    Raises:
        ConfigError: The kernels do not fit into memory and the solver cannot stream.
    """
    max_memory = settings.max_memory or memory_budget(problem.base_mass.device)
    needed = kernel_bytes(problem)
    if needed <= max_memory:
        learned = _SOLVERS[settings.solver](problem, settings, on_step or _ignore)
    elif settings.solver in _STREAMED:
        learned = solve_streamed(problem, settings, max_memory, on_step or _ignore, on_pass or _unwatched)
    else:
        raise ConfigError(
            f"solver {settings.solver!r} needs {needed / 2**30:.1f} GiB for its kernels, and max_memory is "
            f"{max_memory / 2**30:.1f} GiB; raise it, or use one of the solvers that stream: {', '.join(_STREAMED)}"
        )
    if not learned.converged:
        stationarity = "unknown" if learned.stationarity is None else f"{learned.stationarity:.1e}"
        warnings.warn(
            f"{_describe(settings.solver)} stopped after {learned.n_steps} steps and {learned.n_sinkhorn_iters} "
            f"Sinkhorn iterations short of its tolerances: stationarity {stationarity}, column errors "
            f"{learned.marginal_error('pull'):.1e} (pull) and {learned.marginal_error('push'):.1e} (push); raise "
            f"max_steps, max_iters, epsilon or effective_sample_size",
            ConvergenceWarning,
            stacklevel=2,
        )
    return learned


def _reference_sets(side: Side, given: References) -> list[ReferenceSet]:
    sets = [ReferenceSet(given)] if isinstance(given, Tensor) else list(given)
    if not sets or any(one.strength < 0 for one in sets) or not sum(one.strength for one in sets) > 0:
        raise DataError(f"the strengths of the sets that {side} must be ≥ 0 and not all 0. Got {len(sets)} sets")
    return sets


def _references(
    side: Side,
    downstream: Rows,
    sets: Sequence[ReferenceSet],
    stretch: Stretch | None,
    strength: float,
    settings: SolverSettings,
) -> list[Reference]:
    total = sum(one.strength for one in sets)
    return [
        Reference(
            side,
            stretched_cost(downstream, one.representations, stretch),
            strength * one.strength / total,
            settings.reference_relaxation,
        )
        for one in sets
    ]


def _describe(solver: SolverName) -> str:
    return f"weight solver {solver!r}"


def _ignore(_: Step) -> None:
    """Does nothing with a step."""


def _unwatched(_: int) -> None:
    """Watches no pass."""
