"""A token-level mask in the way of TOSS: what a harm-tuned model finds easier than a task-tuned one is not learned.

Li et al., *Token-level data selection for safe LLM fine-tuning* (ICLR 2026, https://arxiv.org/abs/2603.01185). A
token's risk is its loss under the utility-oriented model less its loss under the safety-degraded one; the riskiest
fifth of all completion tokens, over the whole set, gets no loss.

Released code trains its references on sets of tens of thousands of rows, and normalizes by the tokens that are left.
Here the references are the two that every method has: the safe anchor (task) and the harmful reference (harm), each
tuned with the budget's settings; and a token that stays counts as much as it would without the mask. Its progressive
refinement is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.tuned import tune_on
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.token_losses import score_tokens


class TokenMaskSettings(StageSettings):
    """Token mask: its own constants."""

    masked_share: float = Field(0.2, ge=0, lt=1, description="Share of all tokens (the released script's data_prop).")


def train(inputs: TrainInputs) -> TrainResult:
    """Tunes the two references, masks, and trains on what is left.

    Raises:
        DataError: One of the sets has no row to train on.
    """
    tools = inputs.tools
    references = {"task": inputs.safe_anchor, "harm": inputs.harmful_reference}
    losses = {
        name: score_tokens(
            inputs.records, model=tools.model, adapter=tune_on(rows, tools, name=name), settings=tools.training
        )
        for name, rows in references.items()
    }
    ids = [record.id for record in inputs.records if record.id in losses["task"]]
    risks = {id: losses["task"][id] - losses["harm"][id] for id in ids}
    share = inputs.own(TokenMaskSettings).masked_share
    return train_weighted(inputs, learned_tokens=mask_riskiest(ids, risks, share=share))


def mask_riskiest(ids: Sequence[str], risks: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Returns which tokens stay: all but the ``floor(share · tokens)`` riskiest of the whole set.

    Args:
        ids: The rows, in order; of equal risks, the earlier row's and the earlier token is masked.
        risks: By id, the risk of each completion token.
        share: How many to mask, in [0, 1).

    Returns:
        By id, bool ``[tokens]``, true where the token is learned.
    """
    flat = torch.cat([risks[id].double() for id in ids])
    stays = torch.ones(len(flat), dtype=torch.bool)
    stays[torch.argsort(flat, descending=True, stable=True)[: int(share * len(flat))]] = False
    return dict(zip(ids, torch.split(stays, [len(risks[id]) for id in ids]), strict=True))


METHODS = (
    Method(
        "tokenmask",
        "token mask",
        citation="After Li et al., Token-level data selection for safe LLM fine-tuning (ICLR 2026)",
        link="https://arxiv.org/abs/2603.01185",
        trainer=train,
        own_settings=(TokenMaskSettings,),
    ),
)
