"""SafeGrad: the task's gradient loses the part that would undo safety.

Yi et al., *Gradient surgery for safe LLM fine-tuning* (2025, https://arxiv.org/abs/2508.07172): where the gradient of
the task g and that of the safety loss s disagree, ``g·s < 0``, g is projected on the plane orthogonal to s,
``g − (g·s / s·s)·s``; then s is added. The safety loss is the drift from the model before fine-tuning, as in `kl`.

Theirs takes it over a set of safety rows that the user gives; here over the model's own answers to prompts of the
harmful reference. Gradients are those of the adapter's weights, all of them as one vector, before they are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.kl import KlSettings, StayClose, train_close
from sotune.methods.method import Method
from sotune.training import TrainResult


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the projected gradient.

    Raises:
        DataError: The model answers none of the prompts.
        SotuneError: Training diverged.
    """
    return train_close(inputs, Project)


class Project(StayClose):
    """Adds the gradient of the drift, after the task's has lost what opposes it."""

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"safegrad {super().name}"

    def join(self, task: Sequence[Tensor], own: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the projected gradient of the task plus that of the drift."""
        along, length = _dot(task, own), _dot(own, own)
        share = torch.where((along < 0) & (length > 0), along / length, 0.0)
        self._notes["taken_off"] = float(-share)
        return [g + (1 - share.to(g)) * s for g, s in zip(task, own, strict=True)]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)]).sum()


METHODS = (
    Method(
        "safegrad",
        "SafeGrad",
        citation="Yi et al., Gradient surgery for safe LLM fine-tuning (2025)",
        link="https://arxiv.org/abs/2508.07172",
        trainer=train,
        own_settings=(KlSettings,),
    ),
)
