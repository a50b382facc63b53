"""A method: the shorter a completion, the better."""

import torch
from torch import Tensor

from sotune.methods import Method, WeighInputs


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns 1 / (1 + length) for each row."""
    rows = inputs.require_records("shortest").downstream
    return torch.tensor([1 / (1 + len(row.completion)) for row in rows], dtype=torch.float64)


SHORTEST = Method("shortest", "shortest first", weigher=weigh)
