r"""The convex–concave procedure on the push-pull objective (Yuille and Rangarajan, Neural Comput. 2003).

Each ``OT(·, Q)`` is a supremum of functions that are linear in ``w``, so it is convex, and the push is concave. One
step replaces the push by its tangent, whose slope is its row potential, and solves the convex rest. The objective
never rises, whatever tau is, with no step size to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sotune.settings import WeightSettings
from sotune.transport import Kernel, SinkhornSolver
from sotune.weights.fixed_point import Tempering, iterate_together, sweep_weights
from sotune.weights.mirror import History, finish
from sotune.weights.objective import PushPullProblem
from sotune.weights.solution import LearnedWeights, OnStep


def solve_cccp(problem: PushPullProblem, settings: WeightSettings, on_step: OnStep) -> LearnedWeights:
    """Solves the weights to stationarity, or as far as ``max_outer_steps`` allows.

    Each outer step solves the pull and the weights together with the push's potential held, and then the push at the
    weights that came out. While tau is being found it moves once an outer step.
    """
    kernels, tempering = problem.kernels(stored=True), Tempering.of(settings)
    pulls = [number for number, reference in enumerate(problem.references) if reference.side == "pull"]
    pushes = [number for number, reference in enumerate(problem.references) if reference.side == "push"]
    history = History(problem, on_step)
    # The first gradient, at the base mass, says which tau to begin with.
    state = sweep_weights(problem, kernels, tempering, None)
    log_weights, n_iters, converged = problem.base_mass.double().log(), len(kernels), False
    while not converged and len(history.steps) < settings.max_outer_steps:
        # The tangent of the push at the present weights has its row potential as slope, so that is all it needs;
        # the kernels keep their potentials, so each outer step starts where the last one ended.
        for number in pushes:
            solver = SinkhornSolver(kernels[number])
            solved = solver.solve(
                log_weights.exp(), tolerance=settings.marginal_tolerance, max_iters=settings.max_iters
            )  # fmt: skip
            n_iters += solved.n_iters
        tau = state.next_tau
        if pulls:
            inner = _solve_pull(problem, [kernels[number] for number in pulls], kernels, tau, settings)
            n_iters += inner * len(pulls)
        state = sweep_weights(problem, kernels, tempering, tau)
        n_iters += len(kernels)
        log_weights = state.log_weights
        history.add_state(state)
        converged = (
            abs(state.next_tau / tau - 1) <= settings.stationarity_tolerance
            and max(state.swept.errors) <= settings.marginal_tolerance
            and state.stationarity <= settings.stationarity_tolerance
        )
    return finish(problem, kernels, tempering.held(state.tau), history, n_iters, converged=converged)


def _solve_pull(
    problem: PushPullProblem, pulls: Sequence[Kernel], kernels: Sequence[Kernel], tau: float, settings: WeightSettings
) -> int:
    """Solves the convex rest: with the push's potentials held, their part of G is a change of the base mass."""
    swept = sweep_weights(problem, kernels, Tempering(0.5, tau), tau).swept
    held = [f if reference.side == "push" else f * 0 for reference, f in zip(problem.references, swept.f, strict=True)]
    tilted = (problem.base_mass.double().log() - problem.combine(held).double() / tau).softmax(dim=0)
    least = torch.finfo(problem.base_mass.dtype).tiny  # a row that the push all but rules out stays in the problem
    convex = replace(
        problem,
        references=tuple(reference for reference in problem.references if reference.side == "pull"),
        base_mass=tilted.to(problem.base_mass.dtype).clamp(min=least),
    )
    return iterate_together(
        convex,
        pulls,
        Tempering(settings.effective_sample_size, tau),
        marginal_tolerance=settings.marginal_tolerance,
        stationarity_tolerance=settings.stationarity_tolerance,
        max_sweeps=settings.max_iters,
        start_tau=tau,
    ).n_sweeps
