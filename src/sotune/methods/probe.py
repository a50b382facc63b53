"""A logistic probe on the two references: the rival that papers leave out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.settings import StageSettings
from sotune.weights import fit_harm_score
from sotune.weights.ground_cost import PROBE_REGULARIZATION


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
    harm = fit_harm_score(inputs.pull, inputs.harmful_reference, inverse_regularization=c, tolerance=1e-9)
    return lambda z: -harm(z)


METHODS = (Method("probe", "logistic probe", learner=learn, own_settings=(ProbeSettings,)),)
