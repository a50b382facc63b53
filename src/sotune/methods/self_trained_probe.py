"""A logistic probe that adds the surest downstream rows to its own training set: the strongest rival on most mixtures.

Self-training after Yarowsky, *Unsupervised word sense disambiguation rivaling supervised methods* (ACL 1995,
https://aclanthology.org/P95-1026), with fixed shares: it takes some rows for harmful even where none is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import PROBE_REGULARIZATION, train_on_sure_rows
from sotune.weights.logistic import fit_balanced


def learn(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Returns the probability of being safe after self-training, a function of the representation.

    Raises:
        SotuneError: A fit diverged.
    """
    odds = self_trained_log_odds(inputs)
    return lambda z: torch.sigmoid(odds(z))


def self_trained_log_odds(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Fits the probe with C = 10, then three times on the references and its own surest rows, with C = 1.

    Returns:
        The log-odds of safe; see `sotune.weights.ground_cost.train_on_sure_rows`.

    Raises:
        SotuneError: A fit diverged.
    """
    downstream, safe, harmful = (
        normalize_rows(z.double()) for z in (inputs.rows, inputs.pull, inputs.harmful_reference)
    )
    probe = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    trained = train_on_sure_rows(downstream, safe, harmful, probe)
    return lambda z: -trained(normalize_rows(z.double()))


METHODS = (
    Method(
        "self_trained_probe",
        "self-trained probe",
        citation="After Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods (ACL 1995)",
        link="https://aclanthology.org/P95-1026",
        learner=learn,
    ),
)
