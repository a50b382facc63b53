"""A logistic probe on the two references: the rival that papers leave out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.settings import StageSettings
from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import fit_balanced


class ProbeSettings(StageSettings):
    """Probe: its own constants."""

    inverse_regularization: float = Field(PROBE_REGULARIZATION, gt=0, description="C of the logistic regression.")


def learn(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Returns the probability of being safe, a function of the representation.

    Raises:
        SotuneError: The fit diverged.
    """
    odds = safe_log_odds(inputs)
    return lambda z: torch.sigmoid(odds(z))


def safe_log_odds(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Fits the probe on unit-length representations of the references; returns the log-odds of safe.

    Raises:
        SotuneError: The fit diverged.
    """
    c = inputs.own(ProbeSettings).inverse_regularization
    safe, harmful = (normalize_rows(z.double()) for z in (inputs.pull, inputs.harmful_reference))
    harm = fit_balanced(safe, harmful, inverse_regularization=c, tolerance=1e-9)
    return lambda z: -harm(normalize_rows(z.double()))


METHODS = (Method("probe", "logistic probe", learner=learn, own_settings=(ProbeSettings,)),)
