"""A logistic probe that adds the surest downstream rows to its own training set: the strongest rival on most mixtures.

Self-training after Yarowsky, *Unsupervised word sense disambiguation rivaling supervised methods* (ACL 1995,
https://aclanthology.org/P95-1026), with fixed shares: it takes some rows for harmful even where none is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.methods.probe import INVERSE_REGULARIZATION, fit_logistic
from sotune.transport.cost import normalize_rows

_ROUNDS = 3
_SAFE_FRACTION, _HARMFUL_FRACTION = 0.5, 0.03
_INVERSE_REGULARIZATION_LATER = 1.0


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe after self-training, ``[n]``.

    Raises:
        SotuneError: A fit did not converge.
    """
    return torch.sigmoid(self_trained_log_odds(inputs))


def self_trained_log_odds(inputs: WeighInputs) -> Tensor:
    """Fits the probe with C = 10, then three times on the references and its own surest rows, with C = 1.

    Each round adds the half of the rows with the largest log-odds to the safe anchor and the 3 % with the smallest to
    the harmful reference (both rounded down), in place of those that the round before added.

    Returns:
        The log-odds of safe of each downstream row, ``[n]``.

    Raises:
        SotuneError: A fit did not converge.
    """
    downstream, safe, harmful = (
        normalize_rows(z.double()) for z in (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    )
    n_safe, n_harmful = (int(fraction * len(downstream)) for fraction in (_SAFE_FRACTION, _HARMFUL_FRACTION))
    log_odds = fit_logistic(safe, harmful, inverse_regularization=INVERSE_REGULARIZATION).log_odds(downstream)
    for _ in range(_ROUNDS):
        order = torch.argsort(log_odds, stable=True)
        model = fit_logistic(
            torch.cat([safe, downstream[order[len(order) - n_safe :]]]),
            torch.cat([harmful, downstream[order[:n_harmful]]]),
            inverse_regularization=_INVERSE_REGULARIZATION_LATER,
        )
        log_odds = model.log_odds(downstream)
    return log_odds


SELF_TRAINED_PROBE = Method(weigh, loss_weight_rule="uniform")
