"""The published recipe: the sharp objective of Eq. 6, softmax logits, Adam (Algorithm 1).

It is kept so that the published system can be run and studied. It has no fixed point to stop at, its weights depend
on the number of steps, and Adam divides away the size of each logit's gradient, which is most of the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import OTProblem, SinkhornResult, transport_plan
from sotune.weights.objective import PushPullObjective, PushPullProblem, Reference, sharp_cost, sharp_gradient
from sotune.weights.solution import LearnedWeights, OnStep, SolvedReference, Step
from sotune.weights.tempering import effective_sample_size

_SYSTEM_TOLERANCE = 1e-6
_SYSTEM_MAX_ITERS = 200


def solve_adam_sharp(problem: PushPullProblem, settings: WeightSettings, on_step: OnStep) -> LearnedWeights:
    """Takes ``max_outer_steps`` Adam steps on the logits, from the base mass.

    The derivative of the sharp cost is exact, by implicit differentiation; the paper differentiates through the
    Sinkhorn iterations, which tends to the same derivative.
    """
    objective = PushPullObjective(problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters)
    logits = problem.base_mass.log().requires_grad_()
    adam = torch.optim.Adam([logits], lr=settings.logit_learning_rate)
    history: list[Step] = []
    n_iters = 0

    # One evaluation more than there are steps, so that what is reported is true of the weights handed back.
    for number in range(1, settings.max_outer_steps + 2):
        weights = torch.softmax(logits.detach(), dim=0)
        evaluation = objective.evaluate(weights)
        n_iters += evaluation.n_iters
        found = [
            _sharpen(reference, weights, solved, problem.epsilon)
            for reference, solved in zip(problem.references, evaluation.solved, strict=True)
        ]
        errors = {"pull": 0.0, "push": 0.0}
        for reference, solved in zip(problem.references, evaluation.solved, strict=True):
            errors[reference.side] = max(errors[reference.side], solved.marginal_error)
        history.append(
            Step(
                step=number,
                objective=sum(s * one.value for s, one in zip(problem.strengths, found, strict=True)),
                stationarity=None,
                pull_marginal_error=errors["pull"],
                push_marginal_error=errors["push"],
                effective_sample_size=effective_sample_size(weights.log(), problem.base_mass),
            )
        )
        on_step(history[-1])
        if number <= settings.max_outer_steps:
            gradient = problem.combine([one.gradient for one in found])
            logits.grad = weights * (gradient - weights @ gradient)
            adam.step()

    return LearnedWeights(
        weights=weights.double() / weights.double().sum(),
        references=tuple(map(_solved, problem.references, evaluation.solved, found)),
        objective=history[-1].objective,
        tau=None,
        log_normalizer=None,
        stationarity=None,
        effective_sample_size=history[-1].effective_sample_size,
        n_steps=settings.max_outer_steps,
        n_sinkhorn_iters=n_iters,
        n_passes=0,
        converged=evaluation.converged,
        history=tuple(history),
    )


@dataclass(frozen=True)
class _Sharp:
    value: float
    gradient: Tensor
    mean_cost: Tensor


def _sharpen(reference: Reference, a: Tensor, solved: SinkhornResult, epsilon: float) -> _Sharp:
    """Returns the sharp cost of one transport, with its derivative and what each row pays."""
    plan = transport_plan(OTProblem(reference.cost, a, reference.b, epsilon), solved)
    gradient = sharp_gradient(reference.cost, plan, tolerance=_SYSTEM_TOLERANCE, max_iters=_SYSTEM_MAX_ITERS)
    paid = plan * reference.cost.rows(0, len(a))
    return _Sharp(sharp_cost(reference.cost, plan), gradient, paid.sum(dim=1) / a)


def _solved(reference: Reference, result: SinkhornResult, sharp: _Sharp) -> SolvedReference:
    potentials = (reference.b, result.f, result.g)
    return SolvedReference(reference.side, reference.strength, *potentials, sharp.mean_cost, result.marginal_error)
