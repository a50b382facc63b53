"""Push-pull optimal transport, as the package solves it: sotune's own method, and two of its limits."""

from __future__ import annotations

import math
from typing import TypedDict, Unpack

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.weights import SolverSettings, learn_weights
from sotune.weights.solution import SolverName


class WeighChanges(TypedDict, total=False):
    """What a comparison may change of the method, under the names of sotune.settings, which explains them."""

    cost: str
    epsilon: float
    push_strength: float
    solver: SolverName
    reference_relaxation: float
    effective_sample_size: float
    max_outer_steps: int
    logit_learning_rate: float


# The defaults of sotune.settings. A method must not change with a user's settings.
_DEFAULTS: WeighChanges = {
    "cost": "cosine",
    "epsilon": 0.1,
    "push_strength": 0.5,
    "solver": "mirror",
    "reference_relaxation": math.inf,
    "effective_sample_size": 0.9,
    "max_outer_steps": 200,
    "logit_learning_rate": 0.1,
}


def weigh(inputs: WeighInputs, **changes: Unpack[WeighChanges]) -> Tensor:
    """Returns weights solved to stationarity, ``[n]``, unless the changes say otherwise."""
    return learn(inputs, **changes)


def weigh_one_step(inputs: WeighInputs) -> Tensor:
    """Returns the weights of the first gradient, ``[n]``: the ranking by potentials at equal weights."""
    return learn(inputs, solver="one_step")


def weigh_by_density_ratio(inputs: WeighInputs) -> Tensor:
    """Returns a power of the ratio of kernel densities, safe to harmful, ``[n]``: transport with free columns.

    The density of a reference at z is ``Σ_j b_j exp(−C(z, z_j)/ε)``; with λ = ½ both have the same exponent.
    """
    return learn(inputs, solver="one_step", reference_relaxation=0.0)


def learn(inputs: WeighInputs, **changes: Unpack[WeighChanges]) -> Tensor:
    """Returns push-pull weights, ``[n]``, at the defaults or away from some of them."""
    cost = changes.get("cost", _DEFAULTS["cost"])
    return learn_weights(
        inputs.downstream,
        inputs.safe_anchor,
        inputs.harmful_reference,
        settings=solver_settings(**changes),
        cost=cost,
    ).weights


def solver_settings(**changes: Unpack[WeighChanges]) -> SolverSettings:
    """Returns how a method solves, at the defaults or away from some of them."""
    at = _DEFAULTS.copy()
    at.update(changes)
    return SolverSettings(
        solver=at["solver"],
        epsilon=at["epsilon"],
        push_strength=at["push_strength"],
        effective_sample_size=at["effective_sample_size"],
        tau=None,
        stationarity_tolerance=1e-5,
        marginal_tolerance=1e-5,
        max_steps=at["max_outer_steps"],
        max_iters=2000,
        learning_rate=at["logit_learning_rate"],
        reference_relaxation=at["reference_relaxation"],
    )


SOT = Method(weigh, loss_weight_rule="proportional")
SOT_POTENTIALS = Method(weigh_one_step, loss_weight_rule="proportional")
KERNEL_DENSITY_RATIO = Method(weigh_by_density_ratio, loss_weight_rule="uniform")
