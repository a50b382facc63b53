"""A logistic probe that adds the surest downstream rows to its own training set: the strongest rival on most mixtures.

Self-training after Yarowsky, *Unsupervised word sense disambiguation rivaling supervised methods* (ACL 1995,
https://aclanthology.org/P95-1026), with fixed shares: it takes some rows for harmful even where none is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import PROBE_REGULARIZATION, train_on_sure_rows
from sotune.weights.logistic import fit_balanced


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe after self-training, ``[n]``.

    Raises:
        SotuneError: A fit diverged.
    """
    return torch.sigmoid(self_trained_log_odds(inputs))


def self_trained_log_odds(inputs: WeighInputs) -> Tensor:
    """Fits the probe with C = 10, then three times on the references and its own surest rows, with C = 1.

    Returns:
        The log-odds of safe of each downstream row, ``[n]``; see `sotune.weights.ground_cost.train_on_sure_rows`.

    Raises:
        SotuneError: A fit diverged.
    """
    downstream, safe, harmful = (
        normalize_rows(z.double()) for z in (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    )
    probe = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    return -train_on_sure_rows(downstream, safe, harmful, probe)(downstream)


SELF_TRAINED_PROBE = Method(weigh, loss_weight_rule="uniform")
