"""The loss under a model tuned on the safe anchor: what SEAL comes to as released.

A rival that papers leave out. The model is tuned on the anchor for as many steps as the fine-tuning itself takes, and a
row's score is the mean loss of its completion under that model; the lowest are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.methods.ranking import weights_by_rank
from sotune.methods.tuned import tune_on
from sotune.training.token_losses import score_tokens


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights by rank of the loss, ``[n]``; rows that cannot be trained on rank last.

    Raises:
        ConfigError: There are no records or no model.
        DataError: The anchor has no row to train on.
    """
    records, tools = inputs.require_records("loss_under_safe"), inputs.require_tools("loss_under_safe")
    adapter = tune_on(records.pull, tools, name="safe")
    losses = score_tokens(records.downstream, model=tools.model, adapter=adapter, settings=tools.training)
    mean = [float(losses[r.id].mean()) if r.id in losses else torch.inf for r in records.downstream]
    return weights_by_rank(-torch.tensor(mean, dtype=torch.float64))


METHODS = (Method("loss_under_safe", "loss under a safe model", weigher=weigh, needs=frozenset({"model"})),)
