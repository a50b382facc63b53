"""Proximal: weights stay near the aligned model's.

``loss + ρ/2·Σ_l ‖ΔW_l‖² / ‖W_l‖²`` with ΔW the adapter's update of a layer: the penalty towards the starting point of
Li et al., *Explicit inductive bias for transfer learning with convolutional networks* (L2-SP, ICML 2018,
https://arxiv.org/abs/1802.01483), on the update itself and as a share of the weights, so that ρ means the same for
every model. It reads no prompt and knows no safety: what it costs and what it saves is the control for methods that do.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange


class ProximalSettings(StageSettings):
    """Proximal: its own constants."""

    rho: float = Field(1.0, ge=0, description="Strength of the penalty on the squared relative update of each layer.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the penalty.

    Raises:
        SotuneError: Training diverged.
    """
    return train_weighted(inputs, change=NearWeights(rho=inputs.own(ProximalSettings).rho))


class NearWeights(StepChange):
    """Adds ``ρ/2·Σ_l ‖ΔW_l‖² / ‖W_l‖²`` to the loss of each step.

    Args:
        rho: ρ, ≥ 0.
    """

    def __init__(self, *, rho: float) -> None:
        self._rho = rho
        self._sizes: dict[str, float] = {}

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"proximal rho={self._rho}"

    def start(self, model: Any) -> None:
        """Notes how large the weights are."""
        self._sizes = {
            name: float(layer.get_base_layer().weight.detach().float().square().sum())
            for name, layer in model.named_modules()
            if hasattr(layer, "lora_A")
        }

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``ρ/2`` times the sum over the layers."""
        layers = dict(model.named_modules())
        return self._rho / 2 * sum(_squared_update(layers[name]) / size for name, size in self._sizes.items())


def _squared_update(layer: Any) -> Tensor:
    """Returns ``‖s·B A‖²``, by the two Gram matrices of width r."""
    a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
    squared: Tensor = layer.scaling["default"] ** 2 * torch.sum((b.T @ b) * (a @ a.T))
    return squared


METHODS = (
    Method(
        "proximal",
        "proximal",
        kind="rival",
        citation="Li et al., Explicit inductive bias for transfer learning with convolutional networks (ICML 2018)",
        link="https://arxiv.org/abs/1802.01483",
        trainer=train,
        own_settings=(ProximalSettings,),
    ),
)
