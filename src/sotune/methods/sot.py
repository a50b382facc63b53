"""Push-pull optimal transport, as the package solves it: sotune's own method, and two of its limits."""

from __future__ import annotations

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.settings import WeightSettings
from sotune.weights import learn_weights

SETTINGS = WeightSettings(cost="cosine")
"""The defaults under the paper's cost. A user's own settings do not change a method; a comparison may."""


def weigh(inputs: WeighInputs, *, settings: WeightSettings = SETTINGS) -> Tensor:
    """Returns weights solved to stationarity, ``[n]``, unless the settings say otherwise."""
    return learn_weights(inputs.downstream, inputs.safe_anchor, inputs.harmful_reference, settings).weights


def weigh_one_step(inputs: WeighInputs) -> Tensor:
    """Returns the weights of the first gradient, ``[n]``: the ranking by potentials at equal weights."""
    return weigh(inputs, settings=SETTINGS.replace(solver="one_step"))


def weigh_by_density_ratio(inputs: WeighInputs) -> Tensor:
    """Returns a power of the ratio of kernel densities, safe to harmful, ``[n]``: transport with free columns.

    The density of a reference at z is ``Σ_j b_j exp(−C(z, z_j)/ε)``; with λ = ½ both have the same exponent.
    """
    return weigh(inputs, settings=SETTINGS.replace(solver="one_step", reference_relaxation=0.0))


SOT = Method(weigh, loss_weight_rule="proportional")
SOT_POTENTIALS = Method(weigh_one_step, loss_weight_rule="proportional")
KERNEL_DENSITY_RATIO = Method(weigh_by_density_ratio, loss_weight_rule="uniform")
