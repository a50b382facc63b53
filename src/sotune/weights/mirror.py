r"""KL-proximal mirror descent on the push-pull objective, to a stated stationarity.

At a fixed point ``w_i ∝ u_i · exp(−G_i / tau)``. One step mixes the logarithms of the present weights and of that
target, ``log w ← (1 − s)·log w + s·target``, which is mirror descent in the KL geometry with step ``s / tau``. A step
``s = 1`` is the plain fixed-point iteration, and ``s`` is halved whenever the objective rises. The step is safe up to
``1 / ((1 − λ)·L_pull + tau)`` with ``L = ε σ² / (1 − σ²)``, σ the second singular value of the normalized plan; on
real text tau is far above L, so ``s = 1`` is nearly always taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.transport import GroundCost, SinkhornResult, column_error, expected_cost, extend_potential
from sotune.weights.objective import (
    Evaluation,
    PushPullObjective,
    PushPullProblem,
    effective_sample_size,
    kl_divergence,
)
from sotune.weights.solution import LearnedWeights, OnStep, SolverSettings, Step

_TAU_SETTLED = 1e-3  # relative change of tau below which it is held fixed and the weights are solved for it
_SETTLING_STEPS = 20  # tau is held fixed after so many steps in any case
_SMALLEST_STEP = 1e-6  # below this the objective cannot be told to fall in the number type at hand


def solve_mirror(problem: PushPullProblem, settings: SolverSettings, on_step: OnStep) -> LearnedWeights:
    """Solves the weights to stationarity, or as far as ``max_steps`` allows.

    While tau is being found, each step chooses the tau at which the target has the wanted effective sample size;
    once that tau has settled it is held, and the problem is an ordinary minimization whose objective never rises.
    """
    objective = PushPullObjective(problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters)
    slack = settings.epsilon * settings.marginal_tolerance + 32 * torch.finfo(problem.base_mass.dtype).eps
    evaluation = objective.evaluate(problem.base_mass)
    tau = settings.tau or find_tau(evaluation.gradient, problem.base_mass, settings.effective_sample_size)
    settled = settings.tau is not None
    best = _Iterate.at(problem.base_mass.log(), evaluation, problem, tau)
    history = [best.step(1, problem)]
    on_step(history[-1])
    n_iters, size = evaluation.n_iters, 1.0

    def solved() -> bool:
        return settled and best.evaluation.converged and best.stationarity <= settings.stationarity_tolerance

    while not solved() and len(history) < settings.max_steps and size > _SMALLEST_STEP:
        log_weights = torch.log_softmax(best.log_weights.lerp(best.target, size), dim=0)
        evaluation = objective.evaluate(log_weights.exp())
        n_iters += evaluation.n_iters
        if settled:
            trial = _Iterate.at(log_weights, evaluation, problem, tau)
            better = trial.objective <= best.objective + slack
            best, size = (trial, min(1.0, 2 * size)) if better else (best, size / 2)
        else:
            found = find_tau(evaluation.gradient, problem.base_mass, settings.effective_sample_size)
            settled = abs(found / tau - 1) < _TAU_SETTLED or len(history) >= _SETTLING_STEPS
            tau = found
            best = _Iterate.at(log_weights, evaluation, problem, tau)
        history.append(best.step(len(history) + 1, problem))
        on_step(history[-1])
    return _finish(problem, best, tau, history, n_iters, converged=solved())


def solve_one_step(problem: PushPullProblem, settings: SolverSettings, on_step: OnStep) -> LearnedWeights:
    """Takes the first gradient only: ``w ∝ u·exp(−G(u) / tau)``, the limit of a large tau.

    It ranks by the potentials at uniform weights. It is not stationary, and the result's figure shows by how much;
    ``converged`` speaks of the two transports alone.
    """
    objective = PushPullObjective(problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters)
    evaluation = objective.evaluate(problem.base_mass)
    tau = settings.tau or find_tau(evaluation.gradient, problem.base_mass, settings.effective_sample_size)
    iterate = _Iterate.at(problem.base_mass.log(), evaluation, problem, tau)
    step = iterate.step(1, problem)
    on_step(step)
    learned = _finish(problem, iterate, tau, [step], evaluation.n_iters, converged=evaluation.converged)
    # What was solved were the transports at the base mass; at the new weights they have never been.
    return replace(
        learned,
        pull=replace(learned.pull, marginal_error=evaluation.pull.marginal_error),
        push=replace(learned.push, marginal_error=evaluation.push.marginal_error),
    )


def find_tau(gradient: Tensor, base_mass: Tensor, target_size: float) -> float:
    """Returns the tau at which ``u·exp(−G / tau)``, normalized, has the wanted effective sample size.

    The effective sample size ``1 / Σ w²/u`` grows with tau from nearly 0 to 1, so bisection finds it. Where the
    gradient is the same for all rows every tau gives equal weights, and 1 is returned.

    Args:
        gradient: ``G``, ``[n]``, in units of cost.
        base_mass: ``u``, ``[n]``.
        target_size: The effective sample size to reach, in (0, 1).
    """
    if target_size <= float(base_mass.max()):
        raise ConfigError(
            f"effective_sample_size={target_size} cannot be reached with {base_mass.shape[0]} rows: one row alone has "
            f"{float(base_mass.max()):.2g}; raise it"
        )
    g = gradient.double()
    spread = float(g.max() - g.min())
    if spread <= 1e-12:
        return 1.0
    log_base = base_mass.double().log()
    low, high = spread * 1e-3, spread * 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        log_w = torch.log_softmax(log_base - g / middle, dim=0)
        wide_enough = effective_sample_size(log_w, base_mass) > target_size
        low, high = (low, middle) if wide_enough else (middle, high)
        if high / low < 1 + 1e-9:
            break
    return math.sqrt(low * high)


@dataclass(frozen=True)
class _Iterate:
    """Weights, the objective there, and the weights that a fixed point would have."""

    log_weights: Tensor
    target: Tensor
    objective: float
    stationarity: float
    evaluation: Evaluation

    @classmethod
    def at(cls, log_weights: Tensor, evaluation: Evaluation, problem: PushPullProblem, tau: float) -> _Iterate:
        target = torch.log_softmax(problem.base_mass.log() - evaluation.gradient / tau, dim=0)
        gap = log_weights - target
        return cls(
            log_weights=log_weights,
            target=target,
            objective=evaluation.value + tau * kl_divergence(log_weights.exp(), problem.base_mass),
            stationarity=float(gap.max() - gap.min()) / 2,
            evaluation=evaluation,
        )

    def step(self, number: int, problem: PushPullProblem) -> Step:
        return Step(
            step=number,
            objective=self.objective,
            stationarity=self.stationarity,
            pull_marginal_error=self.evaluation.pull.marginal_error,
            push_marginal_error=self.evaluation.push.marginal_error,
            effective_sample_size=effective_sample_size(self.target, problem.base_mass),
        )


def _finish(
    problem: PushPullProblem, iterate: _Iterate, tau: float, history: list[Step], n_iters: int, *, converged: bool
) -> LearnedWeights:
    """Makes the weights the exact function of the column potentials that scores unseen rows too."""
    found = iterate.evaluation
    pull_f = extend_potential(problem.pull_cost, found.pull.g, problem.pull_b, problem.epsilon)
    push_f = extend_potential(problem.push_cost, found.push.g, problem.push_b, problem.epsilon)
    log_mass = problem.base_mass.double().log() - problem.combine(pull_f, push_f).double() / tau
    log_normalizer = float(torch.logsumexp(log_mass, dim=0))
    weights = (log_mass - log_normalizer).exp()

    def at_the_end(cost: GroundCost, f: Tensor, b: Tensor, solved: SinkhornResult) -> SinkhornResult:
        error = column_error(cost, f, solved.g, weights, b, problem.epsilon)
        return replace(solved, f=f, marginal_error=error)

    pull = at_the_end(problem.pull_cost, pull_f, problem.pull_b, found.pull)
    push = at_the_end(problem.push_cost, push_f, problem.push_b, found.push)
    return LearnedWeights(
        weights=weights,
        pull=pull,
        push=push,
        pull_cost=expected_cost(problem.pull_cost, pull, problem.pull_b, problem.epsilon),
        push_cost=expected_cost(problem.push_cost, push, problem.push_b, problem.epsilon),
        objective=iterate.objective,
        tau=tau,
        log_normalizer=log_normalizer,
        stationarity=iterate.stationarity,
        effective_sample_size=effective_sample_size(log_mass - log_normalizer, problem.base_mass),
        n_steps=len(history),
        n_sinkhorn_iters=n_iters,
        converged=converged,
        history=tuple(history),
    )
