"""EMA: what is handed over is a moving average of the adapter's weights over the steps, from where they began.

Kim et al., *Rethinking safety in LLM fine-tuning: An optimization perspective* (COLM 2025,
https://arxiv.org/abs/2508.12531) average in the space of parameters, ``w̄ ← d·w̄ + (1 − d)·w``, to stay near the model
that was aligned. Here the steps go on from w and w̄ is what is left at the end; both factors of the adapter are
averaged, which for small steps is nearly the average of their product. It reads no prompt and knows no safety.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.models import trained_parameters
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange


class EmaSettings(StageSettings):
    """EMA: its own constants."""

    ema_decay: float = Field(0.95, ge=0, lt=1, description="Share of the average that stays in a step, d.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains, and hands the average over.

    Raises:
        SotuneError: Training diverged.
    """
    return train_weighted(inputs, change=Average(decay=inputs.own(EmaSettings).ema_decay))


class Average(StepChange):
    """Averages the trained weights, and puts the average in their place at the end.

    Args:
        decay: d, in [0, 1).
    """

    def __init__(self, *, decay: float) -> None:
        self._decay = decay
        self._average: list[Tensor] = []

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"ema decay={self._decay}"

    def start(self, model: Any) -> None:
        """Begins where the model is."""
        self._average = [weight.detach().clone() for weight in trained_parameters(model).values()]

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Takes in what the step before left; adds nothing to the loss."""
        if step:
            self._take_in(model)
        return 0.0

    def _take_in(self, model: Any) -> None:
        with torch.no_grad():
            for average, weight in zip(self._average, trained_parameters(model).values(), strict=True):
                average.lerp_(weight, 1 - self._decay)

    def state(self) -> Mapping[str, Tensor]:
        """Returns the average."""
        return {f"average/{place}": average for place, average in enumerate(self._average)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it up again."""
        for place, average in enumerate(self._average):
            average.copy_(state[f"average/{place}"])

    def finish(self, model: Any) -> Mapping[str, float]:
        """Takes in the last step, and puts the average in place."""
        self._take_in(model)
        with torch.no_grad():
            for average, weight in zip(self._average, trained_parameters(model).values(), strict=True):
                weight.copy_(average)
        return {}


METHODS = (
    Method(
        "ema",
        "EMA",
        citation="Kim et al., Rethinking safety in LLM fine-tuning: An optimization perspective (COLM 2025)",
        link="https://arxiv.org/abs/2508.12531",
        trainer=train,
        own_settings=(EmaSettings,),
    ),
)
