r"""KL-proximal mirror descent on the push-pull objective, to a stated stationarity.

At a fixed point ``w_i ∝ u_i·exp(−G_i / tau)``. One step mixes the logarithms of the present weights and of that
target, ``log w ← (1 − s)·log w + s·target``, which is mirror descent in the KL geometry with step ``s / tau``. It is
safe up to ``1 / ((1 − λ)·L_pull + tau)`` with ``L = ε σ² / (1 − σ²)``, σ the second singular value of the normalized
plan; on real text tau is far above L, so the full step ``s = 1`` is right, and `iterate_together` takes it with one
Sinkhorn iteration a step. Where that makes no progress (a small tau: few rows are to carry the weight), the transports
are solved at each step and ``s`` is halved whenever the objective rises: `descend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import Kernel, row_mean_costs
from sotune.weights.fixed_point import State, Tempering, conclude, iterate_together, sweep_weights
from sotune.weights.objective import Evaluation, PushPullObjective, PushPullProblem, kl_divergence
from sotune.weights.solution import LearnedWeights, OnStep, Step
from sotune.weights.tempering import effective_sample_size, gibbs

_SMALLEST_STEP = 1e-6  # below this the objective cannot be told to fall in the number type at hand


def solve_mirror(problem: PushPullProblem, settings: WeightSettings, on_step: OnStep) -> LearnedWeights:
    """Solves the weights to stationarity, or as far as ``max_outer_steps`` allows."""
    kernels, tempering = problem.kernels(stored=True), Tempering.of(settings)
    history = History(problem, on_step)
    found = iterate_together(
        problem,
        kernels,
        tempering,
        marginal_tolerance=settings.marginal_tolerance,
        stationarity_tolerance=settings.stationarity_tolerance,
        max_sweeps=settings.max_outer_steps,
        on_state=history.add_state,
    )
    n_iters = found.n_sweeps * len(kernels)
    if found.converged or len(history.steps) >= settings.max_outer_steps:
        # The last sweep was at the potentials that the kernels stand at: only the mean costs are missing.
        swept = replace(found.state.swept, mean_costs=row_mean_costs(kernels))
        state = replace(found.state, swept=swept)
        return conclude(
            problem, state, kernels, history=history.steps, n_sinkhorn_iters=n_iters, converged=found.converged
        )  # fmt: skip
    # Descent goes on from the weights and potentials reached so far, at the tau that was found by then.
    tau = found.state.next_tau
    n_more, converged = descend(problem, kernels, tau, settings, history, start=found.state.log_weights)
    return finish(problem, kernels, tempering.held(tau), history, n_iters + n_more, converged=converged)


def solve_one_step(problem: PushPullProblem, settings: WeightSettings, on_step: OnStep) -> LearnedWeights:
    """Takes the first gradient only: ``w ∝ u·exp(−G(u) / tau)``, the limit of a large tau.

    It ranks by the potentials at uniform weights. It is not stationary, and the result's figure shows by how much;
    ``converged`` speaks of the transports alone.
    """
    kernels, tempering = problem.kernels(stored=True), Tempering.of(settings)
    found = iterate_together(
        problem,
        kernels,
        tempering,
        marginal_tolerance=settings.marginal_tolerance,
        stationarity_tolerance=settings.stationarity_tolerance,
        max_sweeps=settings.max_iters,
        held=True,
    )
    history = History(problem, on_step)
    history.add_state(found.state)
    solved = sweep_weights(problem, kernels, tempering, None, mean_costs=True)
    return conclude(
        problem,
        solved,
        kernels,
        history=history.steps,
        n_sinkhorn_iters=found.n_sweeps * len(kernels),
        converged=found.converged,
    )


def descend(
    problem: PushPullProblem,
    kernels: Sequence[Kernel],
    tau: float,
    settings: WeightSettings,
    history: History,
    *,
    start: Tensor,
) -> tuple[int, bool]:
    """Goes down the objective at one tau; it never rises. Leaves the kernels at the potentials of the best weights.

    Args:
        problem: What is weighed.
        kernels: Its kernels.
        tau: Strength of the KL term.
        settings: Tolerances and limits.
        history: Records each step.
        start: Logarithm of the weights to start from, ``[n]``.

    Returns:
        Sinkhorn iterations spent, and whether it converged.
    """
    objective = PushPullObjective(
        problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters, kernels=kernels
    )
    # Values of transports that are solved to the marginal tolerance are right to about this.
    slack = settings.epsilon * settings.marginal_tolerance + 32 * torch.finfo(problem.base_mass.dtype).eps
    evaluation = objective.evaluate(start.exp())
    best = Iterate.at(start, evaluation, problem, tau, kernels)
    history.add_iterate(best)
    n_iters, size = evaluation.n_iters, 1.0

    def solved() -> bool:
        return best.evaluation.converged and best.stationarity <= settings.stationarity_tolerance

    while not solved() and len(history.steps) < settings.max_outer_steps and size > _SMALLEST_STEP:
        # Mixing logarithms is mirror descent in the KL geometry with step size / τ. Transports start from where the
        # last trial left the kernels: after a small step that is near.
        log_weights = torch.log_softmax(best.log_weights.lerp(best.target, size), dim=0)
        evaluation = objective.evaluate(log_weights.exp())
        n_iters += evaluation.n_iters
        trial = Iterate.at(log_weights, evaluation, problem, tau, kernels)
        # Within the accuracy of the values, stationarity decides.
        falls = trial.objective < best.objective
        better = falls or (trial.objective <= best.objective + slack and trial.stationarity < best.stationarity)
        best, size = (trial, min(1.0, 2 * size)) if better else (best, size / 2)
        history.add_iterate(best)
    # The kernels stand at the last trial, which may have been refused.
    for kernel, g in zip(kernels, best.potentials, strict=True):
        kernel.move(g)
    return n_iters, solved()


def finish(
    problem: PushPullProblem,
    kernels: Sequence[Kernel],
    tempering: Tempering,
    history: History,
    n_iters: int,
    *,
    converged: bool,
) -> LearnedWeights:
    """Makes the weights the exact function of the column potentials that scores unseen rows too, at a held tau."""
    state = sweep_weights(problem, kernels, tempering, tempering.tau, mean_costs=True)
    # One sweep sees one more update alone; the descent measured the residual with transports solved.
    state = replace(state, stationarity=max(state.stationarity, history.steps[-1].stationarity or 0.0))
    return conclude(
        problem, state, kernels, history=history.steps, n_sinkhorn_iters=n_iters, converged=converged
    )  # fmt: skip


class History:
    """The steps of a solution, told one by one."""

    def __init__(self, problem: PushPullProblem, on_step: OnStep) -> None:
        self.steps: list[Step] = []
        self._problem, self._on_step = problem, on_step

    def add_state(self, state: State) -> None:
        """Records a sweep."""
        self._add(state.step(len(self.steps) + 1, self._problem))

    def add_iterate(self, iterate: Iterate) -> None:
        """Records an outer step."""
        self._add(iterate.step(len(self.steps) + 1, self._problem))

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self._on_step(step)


@dataclass(frozen=True)
class Iterate:
    """Weights, the objective there, and the weights that a fixed point would have."""

    log_weights: Tensor
    target: Tensor
    objective: float
    stationarity: float
    evaluation: Evaluation
    potentials: tuple[Tensor, ...]

    @classmethod
    def at(
        cls,
        log_weights: Tensor,
        evaluation: Evaluation,
        problem: PushPullProblem,
        tau: float,
        kernels: Sequence[Kernel],
    ) -> Iterate:
        """Makes it of an evaluation of the objective at the weights."""
        target, _ = gibbs(evaluation.gradient, problem.base_mass, tau)
        gap = log_weights - target
        return cls(
            log_weights=log_weights,
            target=target,
            objective=evaluation.value + tau * kl_divergence(log_weights.exp(), problem.base_mass),
            stationarity=float(gap.max() - gap.min()) / 2,
            evaluation=evaluation,
            potentials=tuple(kernel.g for kernel in kernels),
        )

    def step(self, number: int, problem: PushPullProblem) -> Step:
        """Returns what is recorded of it."""
        errors = {"pull": 0.0, "push": 0.0}
        for reference, result in zip(problem.references, self.evaluation.solved, strict=True):
            errors[reference.side] = max(errors[reference.side], result.marginal_error)
        return Step(
            step=number,
            objective=self.objective,
            stationarity=self.stationarity,
            pull_marginal_error=errors["pull"],
            push_marginal_error=errors["push"],
            effective_sample_size=effective_sample_size(self.target, problem.base_mass),
        )
