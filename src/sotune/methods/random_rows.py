"""Random selection: K rows drawn without replacement, all alike. What any filter has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.base import Method, WeighInputs


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns random weights, ``[n]``, drawn from the seed alone."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return torch.rand(inputs.downstream.shape[0], generator=generator, dtype=torch.float64)


RANDOM = Method(weigh, loss_weight_rule="uniform")
