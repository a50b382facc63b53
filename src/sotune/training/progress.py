"""What is reported about a training run while it goes on, and what is kept of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sotune.artifacts import write_text
from sotune.errors import SotuneError
from sotune.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimizer step.

    Attributes:
        step: Which, counted from 1.
        n_steps: How many there will be.
        loss: Eq. 8 over the rows of the step.
        learning_rate: At which the step was taken.
        grad_norm: Norm of the gradient before it was clipped.
        notes: What a change to the training step says of it, such as the drift that it holds.
    """

    step: int
    n_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    notes: Mapping[str, float] = field(default_factory=dict)

    def check(self, learning_rate: float) -> None:
        """Checks that training goes on, at a learning rate that peaks at the given one.

        Raises:
            SotuneError: The loss or the gradient is not finite.
        """
        if not (math.isfinite(self.loss) and math.isfinite(self.grad_norm)):
            raise SotuneError(
                f"training diverged at step {self.step}: loss {self.loss}, gradient norm {self.grad_norm}; "
                f"lower learning_rate ({learning_rate}), or look for extreme loss weights"
            )


OnStep = Callable[[TrainStep], None]


def rows_per_step(settings: TrainingSettings) -> int:
    """Returns how many rows an optimizer step sees, on one device."""
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps


def count_steps(n_rows: int, settings: TrainingSettings) -> int:
    """Returns how many optimizer steps training on some rows takes, on one device."""
    n_trained = n_rows - count_held_out(n_rows, settings)
    return settings.max_steps or math.ceil(math.ceil(n_trained / rows_per_step(settings)) * settings.num_train_epochs)


def count_held_out(n_rows: int, settings: TrainingSettings) -> int:
    """Returns how many of some rows are not trained on, but measured on meanwhile."""
    return 0 if settings.eval_steps is None else min(settings.eval_rows, n_rows // 10)


def steps_of(state: Any) -> list[TrainStep]:
    """Returns all steps of a Trainer's state, those before a resumption too."""
    return [step_of(entry, entry["step"], state.max_steps) for entry in state.log_history if "loss" in entry]


def write_log(path: Path, steps: Sequence[TrainStep]) -> None:
    """Writes the training log: one JSON object a step, with its notes beside the rest."""
    lines = []
    for step in steps:
        line = asdict(step)
        notes = line.pop("notes")
        lines.append(json.dumps({**line, **dict(sorted(notes.items()))}, allow_nan=False) + "\n")
    write_text(path, "".join(lines))


def step_of(entry: dict[str, Any], step: int, n_steps: int) -> TrainStep:
    """Returns the step that an entry of a Trainer's log tells of."""
    return TrainStep(
        step, n_steps, entry["loss"], entry["learning_rate"], float(entry["grad_norm"]), entry.get("notes", {})
    )
