"""Push-pull transport under a learned ground cost: sotune's default."""

from __future__ import annotations

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.methods.sot import learn


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights in the space stretched by `sotune.weights.ground_cost.learn_stretch`, ``[n]``."""
    return learn(inputs, cost="adaptive", reference_relaxation=0.0)


ADAPTIVE = Method(weigh, loss_weight_rule="proportional")
