"""The published recipe: the sharp objective of Eq. 6, softmax logits, Adam (Algorithm 1).

It is kept so that the published system can be run and studied. It has no fixed point to stop at, its weights depend
on the number of steps, and Adam divides away the size of each logit's gradient, which is most of the evidence.
"""

from __future__ import annotations

import torch

from sotune.transport import GroundCost, OTProblem, SinkhornResult, expected_cost, transport_plan
from sotune.weights.objective import (
    PushPullObjective,
    PushPullProblem,
    effective_sample_size,
    sharp_cost,
    sharp_gradient,
)
from sotune.weights.solution import LearnedWeights, OnStep, SolverSettings, Step

_SYSTEM_TOLERANCE = 1e-6
_SYSTEM_MAX_ITERS = 200


def solve_adam_sharp(problem: PushPullProblem, settings: SolverSettings, on_step: OnStep) -> LearnedWeights:
    """Takes ``max_steps`` Adam steps on the logits, from the base mass.

    The derivative of the sharp cost is exact, by implicit differentiation; the paper differentiates through the
    Sinkhorn iterations, which tends to the same derivative.
    """
    objective = PushPullObjective(problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters)
    logits = problem.base_mass.log().requires_grad_()
    adam = torch.optim.Adam([logits], lr=settings.learning_rate)
    history: list[Step] = []
    n_iters = 0
    strength = problem.push_strength

    def sharp(cost: GroundCost, b: torch.Tensor, a: torch.Tensor, solved: SinkhornResult) -> tuple[float, torch.Tensor]:
        plan = transport_plan(OTProblem(cost, a, b, problem.epsilon), solved)
        gradient = sharp_gradient(cost, plan, tolerance=_SYSTEM_TOLERANCE, max_iters=_SYSTEM_MAX_ITERS)
        return sharp_cost(cost, plan), gradient

    # One evaluation more than there are steps, so that what is reported is true of the weights handed back.
    for number in range(1, settings.max_steps + 2):
        weights = torch.softmax(logits.detach(), dim=0)
        evaluation = objective.evaluate(weights)
        n_iters += evaluation.n_iters
        pull_value, pull_gradient = sharp(problem.pull_cost, problem.pull_b, weights, evaluation.pull)
        push_value, push_gradient = sharp(problem.push_cost, problem.push_b, weights, evaluation.push)
        history.append(
            Step(
                step=number,
                objective=(1 - strength) * pull_value - strength * push_value,
                stationarity=None,
                pull_marginal_error=evaluation.pull.marginal_error,
                push_marginal_error=evaluation.push.marginal_error,
                effective_sample_size=effective_sample_size(weights.log(), problem.base_mass),
            )
        )
        on_step(history[-1])
        if number <= settings.max_steps:
            gradient = problem.combine(pull_gradient, push_gradient)
            logits.grad = weights * (gradient - weights @ gradient)
            adam.step()

    return LearnedWeights(
        weights=weights.double() / weights.double().sum(),
        pull=evaluation.pull,
        push=evaluation.push,
        pull_cost=expected_cost(problem.pull_cost, evaluation.pull, problem.pull_b, problem.epsilon),
        push_cost=expected_cost(problem.push_cost, evaluation.push, problem.push_b, problem.epsilon),
        objective=history[-1].objective,
        tau=None,
        log_normalizer=None,
        stationarity=None,
        effective_sample_size=history[-1].effective_sample_size,
        n_steps=settings.max_steps,
        n_sinkhorn_iters=n_iters,
        converged=evaluation.converged,
        history=tuple(history),
    )
