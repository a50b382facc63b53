"""From representations of the rows and of the references to one weight for each downstream row."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sotune.errors import ConfigError, ConvergenceWarning, DataError
from sotune.settings import WeightSettings
from sotune.transport import ALL_ROWS, Rows, Shards
from sotune.weights.cccp import solve_cccp
from sotune.weights.distinct import find_distinct
from sotune.weights.ground_cost import GroundCost, cost_of, relaxation_of
from sotune.weights.mirror import solve_mirror, solve_one_step
from sotune.weights.objective import PushPullProblem, Reference, Side
from sotune.weights.placement import choose_device, place_cost, place_learned, place_rows
from sotune.weights.sharp import solve_sharp
from sotune.weights.solution import LearnedWeights, OnStep, Step
from sotune.weights.streaming import OnPass, kernel_bytes, memory_budget, solve_streamed
from sotune.weights.tempering import check_size

_DEFAULTS = WeightSettings()
_SOLVERS = {
    "mirror": solve_mirror,
    "cccp": solve_cccp,
    "one_step": solve_one_step,
    "sharp": solve_sharp,
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
    settings: WeightSettings = _DEFAULTS,
    *,
    cost: GroundCost | None = None,
    base_mass: Tensor | None = None,
    shards: Shards = ALL_ROWS,
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> LearnedWeights:
    """Learns push-pull weights (Eq. 5; the tau term is ours).

    Equal rows are solved as one row of their common mass, and share its weight by theirs.

    Where the kernels do not fit into ``settings.max_memory`` the rows are streamed, in time that is linear in their
    number and in memory that does not depend on it.

    >>> _ = torch.manual_seed(0)
    >>> safe, harmful = torch.randn(80, 16) + torch.eye(16)[0] * 4, torch.randn(20, 16) + torch.eye(16)[1] * 4
    >>> rows = torch.cat([safe[:40], harmful[:10]])
    >>> learned = learn_weights(rows, safe[40:], harmful[10:], WeightSettings(epsilon=0.2))
    >>> bool(learned.weights[:40].min() > learned.weights[40:].max()), learned.converged
    (True, True)

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``: a tensor, or files that are read by slices.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``, or several such sets with their strengths:
            the first is the anchor, the others are safe references.
        harmful_reference: The same of the harmful rows.
        settings: The problem and how to solve it; the configuration of a run will do.
        cost: The ground cost, fitted or not; ``None``: the one that the settings name.
        base_mass: Weights that no evidence would change, ``[n]``, sum 1; uniform by default.
        shards: Which rows' kernels this process holds, where several solve one problem; all call this at once, with all
            rows, and all get all weights.
        on_step: Called after each outer step.
        on_pass: Called before each pass over streamed rows; what it returns is told of the rows done.

    Raises:
        DataError: Representations are not finite, of different width, or empty.
        ConfigError: The kernels do not fit into memory and the solver cannot stream, so small an effective sample
            size cannot be reached, or the device is not there.
    """
    anchors, harmful = _reference_sets("pull", safe_anchor), _reference_sets("push", harmful_reference)
    home, width = downstream.device, sum(len(one.representations) for one in (*anchors, *harmful))
    device = choose_device(settings.solver_device, (downstream.shape[0], width), downstream)
    downstream, anchors, harmful = place_rows(downstream, device), _placed(anchors, device), _placed(harmful, device)
    fitted = fit_cost(place_cost(cost or cost_of(settings), device), downstream, anchors, harmful)
    mass = _base_mass(base_mass, downstream, settings)
    distinct = find_distinct(downstream)
    pull = _references("pull", distinct.of(downstream), anchors, fitted, 1 - settings.push_strength, settings)
    push = _references("push", distinct.of(downstream), harmful, fitted, settings.push_strength, settings)
    problem = PushPullProblem((*pull, *push), epsilon=settings.epsilon, base_mass=distinct.gather(mass), shards=shards)
    learned = solve(problem, settings, on_step=on_step, on_pass=on_pass)
    return place_learned(replace(distinct.spread(learned, mass), cost=fitted), home)


def _base_mass(given: Tensor | None, downstream: Rows, settings: WeightSettings) -> Tensor:
    n = downstream.shape[0]
    uniform = torch.full((n,), 1 / n, dtype=downstream.dtype, device=downstream.device)
    mass = uniform if given is None else given.to(uniform)
    if settings.tau is None and settings.solver != "sharp":
        check_size(settings.effective_sample_size, mass)
    return mass


def solve(
    problem: PushPullProblem,
    settings: WeightSettings,
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
            f"weight solver {settings.solver!r} stopped after {learned.n_steps} steps and {learned.n_sinkhorn_iters} "
            f"Sinkhorn iterations short of its tolerances: stationarity {stationarity}, column errors "
            f"{learned.marginal_error('pull'):.1e} (pull) and {learned.marginal_error('push'):.1e} (push); raise "
            f"max_outer_steps, max_iters, epsilon or effective_sample_size",
            ConvergenceWarning,
            stacklevel=2,
        )
    return learned


def pull_sets(
    safe_anchor: Tensor, safe_reference: Tensor | None, settings: WeightSettings = _DEFAULTS
) -> tuple[ReferenceSet, ...]:
    """Returns what pulls: the anchor, and the safe reference with the strength that the settings give it.

    >>> [one.strength for one in pull_sets(torch.eye(2), torch.eye(2), WeightSettings(safe_strength=0.5))]
    [1.0, 0.5]

    Args:
        safe_anchor: ``[m_safe, d]``.
        safe_reference: ``[m, d]``; ``None`` where there is none.
        settings: With a strength of 0 the safe reference is left out, of the ground cost too.
    """
    if safe_reference is None or settings.safe_strength == 0:
        return (ReferenceSet(safe_anchor),)
    return ReferenceSet(safe_anchor), ReferenceSet(safe_reference, settings.safe_strength)


def fit_cost(cost: GroundCost, downstream: Rows, pull: References, push: References) -> GroundCost:
    """Returns a ground cost, fitted to the rows: the first set that pulls is the anchor, others are safe references.

    >>> fit_cost(cost_of(WeightSettings(cost="cosine")), torch.eye(2), torch.eye(2), torch.eye(2))
    Cosine()
    """
    anchor, *safe = rows_of(pull)
    return cost.fit(downstream, anchor, torch.cat(rows_of(push)), torch.cat(safe) if safe else None)


def rows_of(references: References) -> tuple[Tensor, ...]:
    """Returns the representations of each of some references, ``[m, d]``.

    >>> [len(rows) for rows in rows_of([ReferenceSet(torch.eye(2)), ReferenceSet(torch.eye(3))])]
    [2, 3]
    """
    return (references,) if isinstance(references, Tensor) else tuple(one.representations for one in references)


def _reference_sets(side: Side, given: References) -> list[ReferenceSet]:
    sets = [ReferenceSet(given)] if isinstance(given, Tensor) else list(given)
    if not sets or any(one.strength < 0 for one in sets) or not sum(one.strength for one in sets) > 0:
        raise DataError(f"the strengths of the sets that {side} must be ≥ 0 and not all 0. Got {len(sets)} sets")
    return sets


def _placed(sets: Sequence[ReferenceSet], device: torch.device) -> list[ReferenceSet]:
    return [replace(one, representations=one.representations.to(device)) for one in sets]


def _references(
    side: Side,
    downstream: Rows,
    sets: Sequence[ReferenceSet],
    cost: GroundCost,
    strength: float,
    settings: WeightSettings,
) -> list[Reference]:
    total, relaxation = sum(one.strength for one in sets), relaxation_of(settings, cost)
    if cost.joins and len(sets) > 1:
        rows = torch.cat([one.representations for one in sets])
        mass = torch.cat([rows.new_full((len(z),), of / total / len(z)) for z, of in _parts(sets)])
        return [Reference(side, cost.between(downstream, rows), strength, relaxation, mass)]
    return [Reference(side, cost.between(downstream, z), strength * of / total, relaxation) for z, of in _parts(sets)]


def _parts(sets: Sequence[ReferenceSet]) -> list[tuple[Tensor, float]]:
    return [(one.representations, one.strength) for one in sets]


def _ignore(_: Step) -> None:
    """Does nothing with a step."""


def _unwatched(_: int) -> None:
    """Watches no pass."""
