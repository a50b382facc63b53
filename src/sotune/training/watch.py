"""What is looked at while training goes on: the loss on rows held out, and how many risky prompts are complied with.

Too much compliance ends the training, and the weights of the last look that was within the limit are handed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from sotune.errors import SotuneError
from sotune.models import evaluating, trained_parameters
from sotune.settings import TrainingSettings
from sotune.training.loss import compute_row_losses
from sotune.training.output_layer import compute_model_losses
from sotune.training.training_rows import LOSS_WEIGHT, RowBatches

Probe = Callable[[Any], float]
"""Asks a model, and returns the share of prompts that it complies with, in [0, 1]."""

_BATCH = 8
_STEP = "step"


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
    """Looks at a model every ``eval_steps`` steps.

    Args:
        held_out: Rows that are not trained on; ``None`` for no loss.
        probe: What is asked; ``None`` for nothing.
        settings: How often, and the limit.
        folder: Where the weights of the last look within the limit are kept.
    """

    def __init__(
        self, held_out: RowBatches | None, probe: Probe | None, settings: TrainingSettings, folder: Path
    ) -> None:
        self._held_out, self._probe = held_out, probe
        self._every = settings.eval_steps or settings.save_steps
        self._limit = settings.stop_at_harmful_rate
        self._kept = folder / "within_limit.safetensors"
        self._notes: dict[str, float] = {}
        self.stopped_at: int | None = None

    def notes(self) -> Mapping[str, float]:
        """Returns what the training log says of the step that has just been looked at."""
        notes, self._notes = self._notes, {}
        return notes

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Looks at the model before the first step; what is too much already cannot be kept to.

        Raises:
            SotuneError: The model complies with more than the limit before any training.
        """
        if self._probe is None or state.global_step:
            return
        rate = self._probe(model)
        if self._limit is not None and rate > self._limit:
            raise SotuneError(
                f"the model complies with {rate:.0%} of the probe's prompts before any training, more than "
                f"stop_at_harmful_rate={self._limit}; raise the limit, or leave it out"
            )
        self._keep(model, state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Looks at the model, and ends the training beyond the limit."""
        last = state.global_step >= state.max_steps
        if state.global_step % self._every and not last:
            return
        if self._held_out is not None:
            self._notes["eval_loss"] = _mean_loss(model, self._held_out)
        if self._probe is None:
            return
        self._notes["harmful_rate"] = rate = self._probe(model)
        if self._limit is None or rate <= self._limit:
            self._keep(model, state)
        else:
            self.stopped_at = state.global_step
            control.should_training_stop, control.should_save = True, False

    def finish(self, model: Any) -> dict[str, float]:
        """Puts the weights of the last look within the limit in place, if training went beyond; returns figures."""
        if self.stopped_at is None:
            return {}
        kept = load_file(self._kept)
        with torch.no_grad():
            for name, parameter in trained_parameters(model).items():
                parameter.copy_(kept[name])
        return {"stopped_at": self.stopped_at, "kept_step": int(kept[_STEP])}

    def _keep(self, model: Any, state: Any) -> None:
        if self._limit is None or not state.is_world_process_zero:
            return
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trained_parameters(model).items()}
        partial = self._kept.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        save_file({**weights, _STEP: torch.tensor(state.global_step)}, partial)
        os.replace(partial, self._kept)


def _mean_loss(model: Any, held_out: RowBatches) -> float:
    """Returns the mean over rows of the mean loss of their tokens."""
    losses = []
    with evaluating(model):
        for start in range(0, len(held_out.rows), _BATCH):
            batch = held_out.take(range(start, min(start + _BATCH, len(held_out.rows))), model.device)
            labels = batch.pop("labels")
            del batch[LOSS_WEIGHT]
            losses.append(compute_row_losses(compute_model_losses(model, batch, labels), labels))
    return float(torch.cat(losses).double().mean())
