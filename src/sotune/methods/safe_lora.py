"""Safe LoRA: layers whose update leaves the subspace of alignment are projected onto it, after training.

Hsu et al., *Safe LoRA: The silver lining of reducing safety risks when fine-tuning large language models* (NeurIPS
2024, https://arxiv.org/abs/2405.16833): with ``V = W_aligned − W_unaligned`` of a layer and ``C = V Vᵀ / ‖V‖_F``, an
update ``B A`` whose cosine with ``C B A`` is below a threshold is replaced by ``C B A``, a plain adapter of the same
rank. It reads no data; it needs the model before alignment, in the same layout.

Released script: a threshold of .5, or the ten layers of the least cosine; here the threshold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.errors import ConfigError
from sotune.methods.folding import LowRank, base_name, rewrite
from sotune.methods.inputs import EditInputs
from sotune.methods.method import Method
from sotune.models import load_causal_lm
from sotune.settings import StageSettings


class SafeLoraSettings(StageSettings):
    """Safe LoRA: its own constants."""

    unaligned_model: str = Field(min_length=1, description="The model before it was aligned: a folder or a Hub id.")
    projected_below: float = Field(
        0.5, ge=-1, le=1, description="Cosine of an update with its projection below which it is projected."
    )


def edit(inputs: EditInputs) -> None:
    """Projects the layers that left the subspace, in place.

    Raises:
        ConfigError: The model before alignment cannot be loaded, or has other layers.
    """
    own, spec = inputs.trained.own(SafeLoraSettings), inputs.trained.tools.model
    aligned = load_causal_lm(spec, frozen=True)
    unaligned = load_causal_lm(replace(spec, name=own.unaligned_model, revision=None), frozen=True)

    def project(name: str, update: LowRank) -> LowRank:
        shift = (_weight(aligned, name, update) - _weight(unaligned, name, update)).float().cpu()
        return projected(update, shift, below=own.projected_below)

    rewrite(inputs.adapter, project)


def projected(update: LowRank, shift: Tensor, *, below: float) -> LowRank:
    """Returns ``C B A`` for ``B A`` where their cosine is below a threshold, else the update as it is.

    Args:
        update: The update of one layer.
        shift: V, what alignment changed about it, ``[d_out, d_in]``; where that is nothing, so is C.
        below: The threshold.
    """
    # C B without C, which has the square of the layer's width.
    inside = shift @ (shift.T @ update.b) / shift.norm().clamp_min(torch.finfo(shift.dtype).tiny)
    whole, part = update.b @ update.a, inside @ update.a
    cosine = torch.nn.functional.cosine_similarity(whole.flatten(), part.flatten(), dim=0)
    return LowRank(update.a, inside) if float(cosine) < below else update


def _weight(model: Any, name: str, update: LowRank) -> Tensor:
    """Returns the weight of a layer by its name in PEFT, ``[d_out, d_in]``."""
    from transformers.pytorch_utils import Conv1D

    layer, shape = base_name(name), (len(update.b), update.a.shape[1])
    modules = dict(model.named_modules())
    weight: Tensor = modules[layer].weight if layer in modules else torch.empty(0)
    weight = weight.T if isinstance(modules.get(layer), Conv1D) else weight
    if weight.shape != shape:
        raise ConfigError(
            f"unaligned_model must be the model before alignment, with the same layers. Got none like {layer} of "
            f"{list(shape)}"
        )
    return weight


METHODS = (
    Method(
        "safe_lora",
        "Safe LoRA",
        citation="Hsu et al., Safe LoRA: The silver lining of reducing safety risks (NeurIPS 2024)",
        link="https://arxiv.org/abs/2405.16833",
        editor=edit,
        own_settings=(SafeLoraSettings,),
    ),
)
