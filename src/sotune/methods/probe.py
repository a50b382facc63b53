"""A logistic probe on the two references: the rival that papers leave out."""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import fit_balanced


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe, ``[n]``."""
    return torch.sigmoid(safe_log_odds(inputs))


def safe_log_odds(inputs: WeighInputs, *, inverse_regularization: float = PROBE_REGULARIZATION) -> Tensor:
    """Fits the probe on unit-length representations of the references.

    Args:
        inputs: The representations.
        inverse_regularization: C, > 0.

    Returns:
        The log-odds of safe of each downstream row, ``[n]``.

    Raises:
        SotuneError: The fit diverged.
    """
    safe, harmful = (normalize_rows(z.double()) for z in (inputs.safe_anchor, inputs.harmful_reference))
    harm = fit_balanced(safe, harmful, inverse_regularization=inverse_regularization, tolerance=1e-9)
    return -harm(normalize_rows(inputs.downstream.double()))


PROBE = Method(weigh, loss_weight_rule="uniform")
