"""SEAL: a logit for each row, learned so that training on the weighted rows helps the loss on trusted ones.

Shen et al., *SEAL: Safety-enhanced aligned LLM fine-tuning via bilevel data selection* (ICLR 2025,
https://arxiv.org/abs/2410.07471), as a penalized single loop; see `sotune.training.bilevel`. γ weighs the trusted loss,
1 − γ the weighted one.

Released code: γ = 1 − 0.03·epoch, three epochs, Adam at 5e-3 on the logits. So in the first epoch the rows do not train
the model at all, and later by 3 to 6 %: what it learns is close to "rank by loss under a model tuned on the anchor"
(`loss_under_safe`). And Adam normalizes the size of each logit's gradient away, which is the signal: after one epoch on
fixed losses the logits' rank correlation with them is 0.07. It also stops an epoch at the shorter loader, and drops
rows before it numbers them. Here γ and the epochs are theirs, the logits take plain gradient steps, the anchor is
cycled, and rows are joined by id. ``seal_released`` has Adam. Both use the budget's learning rate, constant as theirs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sotune import training
from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.training.progress import rows_per_step

_EPOCHS = 3
_PENALTY, _DECAY = 1.0, 0.03
_ADAM_RATE = 5e-3
_RELATIVE_RATE = 0.1
"""Ours: an epoch of plain gradient steps moves a logit by this times the row's loss, to first order."""
_CLIP = 10.0


def weigh(inputs: WeighInputs, *, released: bool = False) -> Tensor:
    """Returns the softmax of the learned logits, ``[n]``; rows that cannot be trained on get the smallest weight.

    Args:
        inputs: Records and tools are needed.
        released: Whether Adam moves the logits, as in the released code.

    Raises:
        ConfigError: There are no records or no model.
        DataError: One of the sets has no row to train on.
    """
    records, tools = inputs.require_records("seal"), inputs.require_tools("seal")
    batch = rows_per_step(tools.training)
    settings = training.BilevelSettings(
        n_steps=_EPOCHS * math.ceil(len(records.downstream) / batch),
        trusted_strength=lambda epoch: _PENALTY - _DECAY * epoch,
        downstream_strength=lambda epoch: 1 - _PENALTY + _DECAY * epoch,
        selector="adam" if released else "sgd",
        # A batch's loss is a mean over its rows, so that a row's share of the gradient is 1/batch.
        selector_learning_rate=_ADAM_RATE if released else _RELATIVE_RATE * batch,
        initial_logit=0.0,
        schedule="constant",
        clip=_CLIP,
    )
    learned = training.train_bilevel(
        records.downstream,
        dict.fromkeys((record.id for record in records.downstream), 1.0),
        records.pull,
        model=tools.model,
        training=tools.training,
        settings=settings,
    ).logits
    lowest = min(learned.values())
    logits = [learned.get(record.id, lowest) for record in records.downstream]
    return torch.softmax(torch.tensor(logits, dtype=torch.float64), 0)


SEAL = Method(
    "seal",
    "SEAL",
    citation="Shen et al., SEAL: Safety-enhanced aligned LLM fine-tuning via bilevel data selection (ICLR 2025)",
    link="https://arxiv.org/abs/2410.07471",
    weigher=weigh,
    needs=frozenset({"model"}),
)
METHODS = (
    SEAL,
    replace(SEAL, name="seal_released", title="SEAL, as released", weigher=partial(weigh, released=True)),
)
