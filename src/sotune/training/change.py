"""What a method may change about the training step, without a trainer of its own."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class StepChange(Protocol):
    """Another batch, another term of the loss, or hooks on the model.

    Steps are optimizer steps, counted from 0. All that happens must be a function of the change's arguments and of the
    steps so far, so that a run can be repeated.
    """

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        ...

    def start(self, model: Any) -> None:
        """Called once, with the model and its fresh adapter, before the first step."""
        ...

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch to train on in place of the one that is due, with as many rows."""
        ...

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns a term that is added to the loss of the step, 0 for none."""
        ...
