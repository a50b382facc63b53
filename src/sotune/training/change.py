"""What a method may change about the training step, without a trainer of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class StepChange(ABC):
    """Another batch, another term of the loss, or hooks on the model; by default none of them.

    Steps are optimizer steps, counted from 0. All that happens must be a function of the change's arguments and of the
    steps so far, so that a run can be repeated.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Names the change and its settings."""

    def start(self, model: Any) -> None:  # noqa: B027 - most changes have nothing to prepare
        """Called once, with the model and its fresh adapter, before the first step."""

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch to train on in place of the one that is due, with as many rows."""
        return batch

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns a term that is added to the loss of the step, 0 for none."""
        return 0.0
