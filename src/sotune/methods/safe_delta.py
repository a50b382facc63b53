"""Safe Delta: of each layer's update what costs safety most is dropped after training, and the rest makes up for it.

Lu et al., *Safe Delta: Consistently preserving safety when fine-tuning LLMs on diverse datasets* (ICML 2025,
https://arxiv.org/abs/2505.12038): safety is a layer's output on risky prompts with refusals, so that its loss is
quadratic in the update with ``H = 2·X Xᵀ`` of the layer's inputs X there; the parts of the update that keep most of it
for least of that loss are kept, up to a limit, and what is dropped is set to what makes up best for what is kept, as in
optimal brain surgery (Hassibi and Stork, 1993).

Ours: a part is a column of the update, all that reads one input. What a part keeps and costs, ``δ²`` and
``δ²/(2·[H⁻¹]_mm)``, ranks columns only, and with whole columns the update stays of low rank: with the kept columns K
and the others D, ``B A`` becomes ``B A_K·(I − H_KD·H_DD⁻¹)``. The limit is a share of the loss that the whole update
has by that measure; it must be a large one, or whole columns take the task with them. The refusals are the model's own
answers to the harmful reference, or the safety pairs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.folding import LowRank, base_name, load_layers, rewrite
from sotune.methods.inputs import EditInputs
from sotune.methods.method import Method
from sotune.methods.pairs import base_model_of, safety_pairs
from sotune.settings import StageSettings
from sotune.training.training_rows import LOSS_WEIGHT, RowBatches, build_equal_rows

_AT_ONCE = 16


class SafeDeltaSettings(StageSettings):
    """Safe Delta: its own constants."""

    safety_loss: float = Field(
        0.9, ge=0, le=1, description="Share of the whole update's loss of safety, as estimated, that may remain."
    )
    safety_rows: int = Field(128, ge=1, description="How many risky prompts with refusals it is estimated on.")
    safety_damping: float = Field(0.01, gt=0, description="Added to H, in units of the mean of its diagonal.")


def edit(inputs: EditInputs) -> None:
    """Drops and makes up, layer by layer, in place.

    Raises:
        ConfigError: It is not a plain LoRA adapter.
        DataError: The model answers none of the risky prompts.
    """
    trained = inputs.trained
    own, tools = trained.own(SafeDeltaSettings), trained.tools
    names = list(load_layers(inputs.adapter))
    pairs = safety_pairs(tools, trained.harmful_reference, most=own.safety_rows)
    rows = build_equal_rows(pairs, tools.renderer)
    grams = input_grams(base_model_of(tools), rows, names)
    rewrite(
        inputs.adapter,
        lambda name, update: kept_within(update, damped(grams[name], own.safety_damping), share=own.safety_loss),
    )


def input_grams(model: Any, rows: RowBatches, names: list[str]) -> dict[str, Tensor]:
    """Returns ``2·X Xᵀ`` of each layer's inputs over all tokens of some rows, ``[d_in, d_in]`` on the CPU.

    Args:
        model: The model before fine-tuning.
        rows: Risky prompts with refusals.
        names: Layers by their names in PEFT.
    """
    grams: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    mask = torch.empty(0)

    def keep(name: str) -> Any:
        def hook(_module: Any, arguments: tuple[Any, ...]) -> None:
            x = arguments[0][mask].float()
            grams[name] = grams[name] + (2 * x.T @ x).cpu()

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[base_name(name)].register_forward_pre_hook(keep(name)) for name in names]
    with torch.no_grad():
        for start in range(0, len(rows.rows), _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, len(rows.rows)))
            batch = rows.take(places, next(model.parameters()).device)
            mask = batch["attention_mask"].bool()
            model(**{name: value for name, value in batch.items() if name not in ("labels", LOSS_WEIGHT)})
    for hook in hooks:
        hook.remove()
    return dict(grams)


def damped(gram: Tensor, damping: float) -> Tensor:
    """Returns H with a share of its mean diagonal added to it, so that it can be inverted."""
    added = damping * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    return gram + added * torch.eye(len(gram))


def kept_within(update: LowRank, hessian: Tensor, *, share: float) -> LowRank:
    """Returns the update of which as many columns are kept as a share of its loss of safety allows.

    Args:
        update: The update of one layer.
        hessian: H, positive definite, ``[d_in, d_in]``.
        share: In [0, 1].
    """
    cost_of_one = 1 / (2 * torch.linalg.inv(hessian).diagonal())
    gain = ((update.b @ update.a) ** 2).sum(dim=0)
    order = torch.argsort(cost_of_one, stable=True)
    loss = (gain * cost_of_one)[order].double().cumsum(dim=0)
    kept = order[loss <= share * loss[-1] * (1 + 1e-9)]
    dropped = order[len(kept) :]
    a = torch.zeros_like(update.a)
    a[:, kept] = update.a[:, kept]
    if len(kept) and len(dropped):
        joint, own = hessian[kept][:, dropped], hessian[dropped][:, dropped]
        a[:, dropped] = -torch.linalg.solve(own, (update.a[:, kept] @ joint).T).T
    return LowRank(a, update.b)


METHODS = (
    Method(
        "safe_delta",
        "Safe Delta",
        citation="Lu et al., Safe Delta: Consistently preserving safety when fine-tuning LLMs (ICML 2025)",
        link="https://arxiv.org/abs/2505.12038",
        editor=edit,
        own_settings=(SafeDeltaSettings,),
    ),
)
