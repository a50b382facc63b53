"""What a method may change about the training step, without a trainer of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class StepChange(ABC):
    """Another batch, another term of the loss, another gradient, a last word on the model; by default none of them.

    Steps are optimizer steps, counted from 0. All that happens must be a function of the change's arguments and of the
    steps so far, so that a run can be repeated.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Names the change and its settings."""

    def start(self, model: Any) -> None:  # noqa: B027 - most changes have nothing to prepare
        """Called once, with the model and its fresh adapter, before the first step; on resuming too."""

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch to train on in place of the one that is due, with as many rows."""
        return batch

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns a term that is added to the loss of the step, 0 for none.

        Called once a step, however many micro-batches and processes share it.
        """
        return 0.0

    def join(self, task: Sequence[Tensor], own: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the step's gradient, one tensor for each trained parameter: the sum, unless a change says otherwise.

        Args:
            task: The gradient of the loss on the rows.
            own: The gradient of the penalty.
        """
        return [of_task + of_change for of_task, of_change in zip(task, own, strict=True)]

    def notes(self) -> Mapping[str, float]:
        """Returns what the training log says of the last step."""
        return {}

    def state(self) -> Mapping[str, float | Tensor]:
        """Returns what a checkpoint must hold: all that the change remembers of the steps so far."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most changes have no state
        """Takes up the state of a checkpoint, after `start`; tensors are on the CPU."""

    def finish(self, model: Any) -> Mapping[str, float]:
        """Called after the last step; may change the model, and returns figures to be kept of the whole training."""
        return {}
