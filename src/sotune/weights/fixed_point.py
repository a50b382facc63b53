r"""Solving transports and weights together: one sweep updates the potentials of all references and the weights.

At a solution the weights are a function of the column potentials alone, ``w ∝ u·exp(−G / tau)`` with ``G`` the row
updates' combination, so the unknowns are the column potentials: a few thousand numbers, however many rows there are.
One sweep over the rows finds the row potentials, the weights that follow, and the column sums that follow from those;
their mismatch is the next Sinkhorn update. It is mirror descent with its full step and a single Sinkhorn iteration,
extrapolated between sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import Extrapolation, Kernel, Sweep, join, move_all, part, sweep
from sotune.transport.sweep import OnRows
from sotune.weights.objective import PushPullProblem, kl_divergence
from sotune.weights.solution import LearnedWeights, SolvedReference, Step
from sotune.weights.tempering import effective_sample_size, find_tau, gibbs

_TAU_TOLERANCE = 1e-4  # relative error of a tau that is found: the effective sample size is then right to 1e-5
_PATIENCE = 30  # sweeps without progress after which the iteration is given up
_PROGRESS = 0.9  # what counts as progress: the error falls to this share of the least so far


@dataclass(frozen=True)
class Tempering:
    """How the strength of the KL term is set.

    Attributes:
        target_size: The effective sample size that the weights are to have.
        tau: A given tau, which takes its place.
    """

    target_size: float
    tau: float | None

    @classmethod
    def of(cls, settings: WeightSettings) -> Tempering:
        """Reads the settings."""
        return cls(settings.effective_sample_size, settings.tau)

    def tau_for(self, problem: PushPullProblem, gradient: Tensor, *, start: float | None = None) -> float:
        """Returns the given tau, or the one that is right for a problem's gradient ``[n]``."""
        return self.tau or find_tau(
            gradient, problem.base_mass, self.target_size, rounding=problem.rounding, start=start
        )

    def held(self, tau: float) -> Tempering:
        """Returns the same with tau given."""
        return replace(self, tau=tau)


@dataclass(frozen=True)
class State:
    """Where the weights stand after a sweep: a function of the column potentials that it began with.

    Attributes:
        swept: The sweep.
        gradient: ``G``, ``[n]``.
        tau: Strength of the KL term.
        next_tau: The tau that is right for this gradient.
        log_weights: ``log u − G / tau``, normalized, ``[n]``, float64.
        log_normalizer: What was taken off.
        objective: ``Σ_k s_k·OT(w, Q_k) + τ·KL(w ‖ u)`` by the dual values, in units of cost.
        stationarity: How far ``log w`` is, less a constant, from its value at the solution. After a sweep alone: a
            bound on the change that one more update of all potentials makes; within `iterate_together`, where that
            is larger, a bound on the change that the extrapolated update makes, which estimates all that is left.
    """

    swept: Sweep
    gradient: Tensor
    tau: float
    next_tau: float
    log_weights: Tensor
    log_normalizer: float
    objective: float
    stationarity: float

    def step(self, number: int, problem: PushPullProblem) -> Step:
        """Returns what is recorded of it."""
        return Step(
            step=number,
            objective=self.objective,
            stationarity=self.stationarity,
            pull_marginal_error=_largest(problem, "pull", self.swept.errors),
            push_marginal_error=_largest(problem, "push", self.swept.errors),
            effective_sample_size=effective_sample_size(self.log_weights, problem.base_mass),
        )


def sweep_weights(
    problem: PushPullProblem,
    kernels: Sequence[Kernel],
    tempering: Tempering,
    tau: float | None,
    *,
    corrections: Sequence[Tensor] | None = None,
    mean_costs: bool = False,
    on_rows: OnRows | None = None,
) -> State:
    """Sweeps once and says where the weights stand.

    Args:
        problem: What is weighed.
        kernels: One for each reference, at the column potentials to sweep with.
        tempering: Says which tau would be right.
        tau: The column sums are those of the weights ``u·exp(−G / tau)``; ``None``: those of the base mass.
        corrections: See `sweep`.
        mean_costs: See `sweep`.
        on_rows: See `sweep`.
    """
    log_base = problem.base_mass.log()

    def log_masses(start: int, stop: int, potentials: Sequence[Tensor]) -> Tensor:
        # w ∝ u·exp(−G / τ), which mirror descent's full step goes to: Eq. 5 alone has no such fixed point, its
        # minimizer puts all mass on few rows (docs/method.md, "Why τ").
        base = log_base[start:stop]
        return base if tau is None else problem.combine(potentials).div_(-tau).add_(base)

    swept = sweep(kernels, log_masses, corrections=corrections, mean_costs=mean_costs, on_rows=on_rows)
    gradient = problem.combine(swept.f)
    next_tau = tempering.tau_for(problem, gradient, start=tau)
    log_weights, log_normalizer = gibbs(gradient, problem.base_mass, tau or next_tau)
    weights = log_weights.exp()
    # By the dual values: as the row updates are exact, these are the transports' values once the columns are right.
    transported = sum(
        strength * (float(f.double() @ weights) + kernel.dual_value())
        for strength, f, kernel in zip(problem.strengths, swept.f, kernels, strict=True)
    )
    return State(
        swept=swept,
        gradient=gradient,
        tau=tau or next_tau,
        next_tau=next_tau,
        log_weights=log_weights,
        log_normalizer=log_normalizer,
        objective=transported + (tau or next_tau) * kl_divergence(weights, problem.base_mass),
        stationarity=_response(problem, swept.changes, tau or next_tau),
    )


@dataclass(frozen=True)
class Together:
    """How far the iteration came.

    Attributes:
        state: The last state.
        n_sweeps: Sweeps done.
        converged: Whether errors, stationarity and tau are within their tolerances.
    """

    state: State
    n_sweeps: int
    converged: bool


def iterate_together(
    problem: PushPullProblem,
    kernels: Sequence[Kernel],
    tempering: Tempering,
    *,
    marginal_tolerance: float,
    stationarity_tolerance: float,
    max_sweeps: int,
    held: bool = False,
    corrections: Sequence[Tensor] | None = None,
    start_tau: float | None = None,
    on_state: Callable[[State], None] = lambda _: None,
) -> Together:
    """Sweeps until transports and weights are solved, or no progress is made.

    Args:
        problem: What is weighed.
        kernels: One for each reference; they hold the column potentials, which this moves.
        tempering: Finds tau, or holds it.
        marginal_tolerance: L1 error of the column sums that counts as solved.
        stationarity_tolerance: The same for `State.stationarity`.
        max_sweeps: At most so many.
        held: Solve the transports for the base mass instead, as the first gradient needs.
        corrections: See `sweep`.
        start_tau: The tau to begin with; without it the first sweep is at the base mass.
        on_state: Called after each sweep.
    """
    # The logarithm of tau is one more unknown, in units of cost like the others: that costs no outer loop.
    metric = join([*(kernel.b for kernel in kernels), kernels[0].b.new_ones(1)])
    extrapolation = Extrapolation(metric)
    tau, scale = None if held else start_tau, problem.epsilon
    least, since, n_sweeps = float("inf"), 0, 0
    while True:
        state = sweep_weights(problem, kernels, tempering, tau, corrections=corrections)
        n_sweeps += 1
        marginal = max(state.swept.errors)
        # At the base mass still, it is a point of another iteration, unless it is held there.
        log_tau = math.log(state.next_tau if tau is None else tau)
        tau_step = 0.0 if tau is None else math.log(state.next_tau / tau)
        point = join([*(kernel.g for kernel in kernels), metric.new_tensor([scale * log_tau])])
        step = join([*state.swept.changes, metric.new_tensor([scale * tau_step])])
        after = extrapolation.next(point, step, marginal + abs(tau_step))
        if tau is None and not held:
            extrapolation.forget()
        # A plain step shows a small part of what is left where convergence is slow; the jump estimates all of it.
        left = _response(problem, part(kernels, after - point), state.tau)
        state = replace(state, stationarity=max(state.stationarity, left))
        on_state(state)
        settled = tau is not None and abs(tau_step) <= _TAU_TOLERANCE and state.stationarity <= stationarity_tolerance
        if marginal <= marginal_tolerance and (held or settled):
            return Together(state, n_sweeps, converged=True)
        # Each in units of its tolerance. Anderson's method may circle; `descend` then goes on from here.
        unsolved = 0.0 if held else state.stationarity / stationarity_tolerance
        error = max(marginal / marginal_tolerance, unsolved, abs(tau_step) / _TAU_TOLERANCE)
        least, since = (error, 0) if error < _PROGRESS * least else (least, since + 1)
        if n_sweeps >= max_sweeps or since >= _PATIENCE:
            return Together(state, n_sweeps, converged=False)
        if not held:
            tau = tempering.tau or state.next_tau if tau is None else math.exp(float(after[-1]) / scale)
        move_all(kernels, after)


def conclude(
    problem: PushPullProblem,
    state: State,
    kernels: Sequence[Kernel],
    *,
    history: Sequence[Step],
    n_sinkhorn_iters: int,
    converged: bool,
    n_passes: int = 0,
) -> LearnedWeights:
    """Makes the result of a state whose sweep found the mean costs."""
    dtype = problem.base_mass.dtype
    return LearnedWeights(
        weights=state.log_weights.exp(),
        references=tuple(
            SolvedReference(
                side=reference.side,
                strength=reference.strength,
                b=reference.b,
                f=f,
                g=kernel.g.to(dtype),
                mean_cost=mean_cost,
                marginal_error=error,
            )
            for reference, kernel, f, mean_cost, error in zip(
                problem.references, kernels, state.swept.f, state.swept.mean_costs, state.swept.errors, strict=True
            )
        ),
        objective=state.objective,
        tau=state.tau,
        log_normalizer=state.log_normalizer,
        stationarity=state.stationarity,
        effective_sample_size=effective_sample_size(state.log_weights, problem.base_mass),
        n_steps=len(history),
        n_sinkhorn_iters=n_sinkhorn_iters,
        n_passes=n_passes,
        converged=converged,
        history=tuple(history),
    )


def _response(problem: PushPullProblem, changes: Sequence[Tensor], tau: float) -> float:
    """Bounds how far ``log w``, less a constant, moves when the column potentials move.

    A change of g moves each f by a mean of it, so half its range bounds how far f moves about its own middle.
    """
    moved = sum(
        abs(strength) * float(change.max() - change.min()) / 2
        for strength, change in zip(problem.strengths, changes, strict=True)
    )
    return moved / tau


def _largest(problem: PushPullProblem, side: str, errors: Sequence[float]) -> float:
    return max((e for r, e in zip(problem.references, errors, strict=True) if r.side == side), default=0.0)
