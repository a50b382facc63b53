"""The published recipe: the sharp objective of Eq. 6, gradient steps on softmax logits (Algorithm 1).

It is kept so that the published system can be run and studied. It has no fixed point to stop at: its weights depend on
the number of steps, and collapse if there are many. The paper says "gradient step" and no more. Plain steps rank as
the first gradient does; Adam divides away the size of each logit's gradient, which is most of the evidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import ConvergenceWarning
from sotune.settings import WeightSettings
from sotune.transport import OTProblem, SinkhornResult, transport_plan
from sotune.weights.objective import (
    Evaluation,
    PushPullObjective,
    PushPullProblem,
    Reference,
    sharp_cost,
    sharp_gradient,
)
from sotune.weights.solution import LearnedWeights, OnStep, SolvedReference, Step
from sotune.weights.tempering import effective_sample_size

_SYSTEM_TOLERANCE = 1e-6
_SYSTEM_MAX_ITERS = 200


def solve_sharp(problem: PushPullProblem, settings: WeightSettings, on_step: OnStep) -> LearnedWeights:
    """Takes ``max_outer_steps`` gradient steps on the logits, from the base mass.

    The derivative of the sharp cost is exact, by implicit differentiation; the paper differentiates through the
    Sinkhorn iterations, which tends to the same derivative. It is divided by the base mass, about 1/n, so that a rate
    means the same for any number of rows: at the base mass, plain steps move a logit by the rate times the row's
    gradient in units of cost.
    """
    objective = PushPullObjective(problem, tolerance=settings.marginal_tolerance, max_iters=settings.max_iters)
    logits = problem.base_mass.log().requires_grad_()
    optimizer = _optimizer(logits, settings)
    history: list[Step] = []
    n_iters = 0

    # One evaluation more than there are steps, so that what is reported is true of the weights handed back.
    while True:
        weights = torch.softmax(logits.detach(), dim=0)
        evaluation = objective.evaluate(weights)
        n_iters += evaluation.n_iters
        found = [
            _sharpen(reference, weights, solved, problem.epsilon)
            for reference, solved in zip(problem.references, evaluation.solved, strict=True)
        ]
        history.append(_as_step(len(history) + 1, problem, weights, evaluation, found))
        on_step(history[-1])
        if len(history) > settings.max_outer_steps:
            break
        gradient = problem.combine([one.gradient for one in found])
        logits.grad = weights / problem.base_mass * (gradient - weights @ gradient)
        optimizer.step()
        if _is_collapsed(logits.detach()):
            _warn_of_collapse(len(history) - 1, settings.max_outer_steps)
            break

    return LearnedWeights(
        weights=weights.double() / weights.double().sum(),
        references=tuple(
            SolvedReference(
                side=reference.side,
                strength=reference.strength,
                b=reference.b,
                f=solved.f,
                g=solved.g,
                mean_cost=one.mean_cost,
                marginal_error=solved.marginal_error,
            )
            for reference, solved, one in zip(problem.references, evaluation.solved, found, strict=True)
        ),
        objective=history[-1].objective,
        tau=None,
        log_normalizer=None,
        stationarity=None,
        effective_sample_size=history[-1].effective_sample_size,
        n_steps=len(history) - 1,
        n_sinkhorn_iters=n_iters,
        n_passes=0,
        converged=evaluation.converged,
        history=tuple(history),
    )


def _as_step(
    number: int, problem: PushPullProblem, weights: Tensor, evaluation: Evaluation, found: Sequence[_Sharp]
) -> Step:
    errors = {"pull": 0.0, "push": 0.0}
    for reference, solved in zip(problem.references, evaluation.solved, strict=True):
        errors[reference.side] = max(errors[reference.side], solved.marginal_error)
    return Step(
        step=number,
        objective=sum(s * one.value for s, one in zip(problem.strengths, found, strict=True)),
        stationarity=None,
        pull_marginal_error=errors["pull"],
        push_marginal_error=errors["push"],
        effective_sample_size=effective_sample_size(weights.log(), problem.base_mass),
    )


def _is_collapsed(logits: Tensor) -> bool:
    """Tells whether some row's weight is below what the number type can hold."""
    return not float(torch.softmax(logits, dim=0).min()) >= torch.finfo(logits.dtype).tiny


def _warn_of_collapse(n_steps: int, asked: int) -> None:
    warnings.warn(
        f"the weights collapsed: after {n_steps} of {asked} steps the next would leave a row no weight at all, and was "
        f"not taken; lower logit_learning_rate or max_outer_steps",
        ConvergenceWarning,
        stacklevel=5,
    )


def _optimizer(logits: Tensor, settings: WeightSettings) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.logit_optimizer == "adam" else torch.optim.SGD
    return kind([logits], lr=settings.logit_learning_rate)


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
