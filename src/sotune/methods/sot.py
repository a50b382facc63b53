"""Push-pull optimal transport, as the package solves it: sotune's own method, and two of its limits."""

from __future__ import annotations

import math

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.weights import SolverSettings, learn_weights
from sotune.weights.solution import SolverName

# The defaults of sotune.config, which explains them. A method must not change with a user's settings.
_EPSILON, _PUSH_STRENGTH, _EFFECTIVE_SAMPLE_SIZE = 0.1, 0.5, 0.9


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights solved to stationarity, ``[n]``."""
    return learn(inputs)


def weigh_one_step(inputs: WeighInputs) -> Tensor:
    """Returns the weights of the first gradient, ``[n]``: the ranking by potentials at equal weights."""
    return learn(inputs, solver="one_step")


def weigh_by_density_ratio(inputs: WeighInputs) -> Tensor:
    """Returns a power of the ratio of kernel densities, safe to harmful, ``[n]``: transport with free columns.

    The density of a reference at z is ``Σ_j b_j exp(−C(z, z_j)/ε)``; with λ = ½ both have the same exponent.
    """
    return learn(inputs, solver="one_step", reference_relaxation=0.0)


def learn(
    inputs: WeighInputs,
    *,
    solver: SolverName = "mirror",
    push_strength: float = _PUSH_STRENGTH,
    effective_sample_size: float = _EFFECTIVE_SAMPLE_SIZE,
    max_steps: int = 200,
    cost: str = "cosine",
    reference_relaxation: float = math.inf,
) -> Tensor:
    """Returns push-pull weights, ``[n]``, at the defaults or away from one of them."""
    settings = solver_settings(
        solver=solver,
        push_strength=push_strength,
        effective_sample_size=effective_sample_size,
        max_steps=max_steps,
        reference_relaxation=reference_relaxation,
    )
    return learn_weights(
        inputs.downstream, inputs.safe_anchor, inputs.harmful_reference, settings=settings, cost=cost
    ).weights


def solver_settings(
    *,
    solver: SolverName = "mirror",
    push_strength: float = _PUSH_STRENGTH,
    effective_sample_size: float = _EFFECTIVE_SAMPLE_SIZE,
    max_steps: int = 200,
    reference_relaxation: float = math.inf,
) -> SolverSettings:
    """Returns how a method solves, at the defaults or away from one of them."""
    return SolverSettings(
        solver=solver,
        epsilon=_EPSILON,
        push_strength=push_strength,
        effective_sample_size=effective_sample_size,
        tau=None,
        stationarity_tolerance=1e-5,
        marginal_tolerance=1e-5,
        max_steps=max_steps,
        max_iters=2000,
        learning_rate=0.1,
        reference_relaxation=reference_relaxation,
    )


SOT = Method(weigh, loss_weight_rule="proportional")
SOT_POTENTIALS = Method(weigh_one_step, loss_weight_rule="proportional")
KERNEL_DENSITY_RATIO = Method(weigh_by_density_ratio, loss_weight_rule="uniform")
