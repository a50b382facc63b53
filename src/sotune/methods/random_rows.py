"""Random selection: K rows drawn without replacement, all alike. What any filter has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns random weights, ``[n]``, drawn from the seed alone."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return torch.rand(inputs.downstream.shape[0], generator=generator, dtype=torch.float64)


METHODS = (Method("random", "random selection", "control", weigher=weigh),)
