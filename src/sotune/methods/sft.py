"""Standard fine-tuning: every row, all alike."""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.base import Method, WeighInputs


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns equal weights, ``[n]``."""
    n = inputs.downstream.shape[0]
    return torch.full((n,), 1 / n, dtype=torch.float64)


SFT = Method(weigh, loss_weight_rule="uniform", keeps_all=True)
