"""Low rate: every row, at a fifth of the learning rate. The cheapest rival of all that holds a model where it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sotune.methods.base import TrainInputs, train_weighted, training

if TYPE_CHECKING:
    from sotune.training import TrainResult

_SHARE = 0.2


def train(inputs: TrainInputs) -> TrainResult:
    """Trains as usual, with smaller steps.

    Raises:
        SotuneError: Training diverged.
    """
    settings = inputs.tools.training
    slower = replace(settings, learning_rate=_SHARE * settings.learning_rate)
    return train_weighted(replace(inputs, tools=replace(inputs.tools, training=slower)))


LOW_RATE = training(train)
