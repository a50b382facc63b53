"""Push-pull transport under a learned ground cost: sotune's default."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.methods.sot import WeighChanges, learn


def weigh(inputs: WeighInputs, **changes: Unpack[WeighChanges]) -> Tensor:
    """Returns weights in the space stretched by `sotune.weights.ground_cost.learn_stretch`, ``[n]``."""
    at: WeighChanges = {"cost": "adaptive", "reference_relaxation": 0.0}
    at.update(changes)
    return learn(inputs, **at)


ADAPTIVE = Method(weigh, loss_weight_rule="proportional")
