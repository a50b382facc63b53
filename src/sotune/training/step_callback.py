"""What happens between the optimizer steps of a Trainer: reports, checkpoints, and an end where one was asked for."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from sotune.stopping import ask, asked
from sotune.training.change import StepChange
from sotune.training.checkpoints import Checkpoints
from sotune.training.progress import OnStep, step_of


class StepCallback(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
    """Reports each step, stops a run that diverged, and marks checkpoints complete."""

    def __init__(self, checkpoints: Checkpoints, on_step: OnStep | None, change: StepChange | None) -> None:
        self._checkpoints = checkpoints
        self._on_step = on_step
        self._change = change

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Reports a step.

        Raises:
            SotuneError: The loss or the gradient is not finite.
        """
        if "loss" not in logs:  # Trainer's summary at the end
            return
        step = step_of(logs, state.global_step, state.max_steps)
        step.check(args.learning_rate)
        if self._on_step is not None and state.is_world_process_zero:
            self._on_step(step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends training with a checkpoint where it is to stop.

        Keeps Trainer from a checkpoint after the last step: resumed from there, it would take one step too many.
        """
        if state.global_step >= state.max_steps:
            control.should_save = False
        elif _asked_of_any(args):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the checkpoint that Trainer has just finished, and removes the one before."""
        if state.is_world_process_zero:
            changed = {} if self._change is None else self._change.state()
            self._checkpoints.keep_only(self._checkpoints.mark_complete(state.global_step, changed))


def _asked_of_any(args: Any) -> bool:
    """Tells whether any process that trains was told to stop; all of them must end at one step."""
    if args.world_size > 1:
        signum = torch.tensor([asked()], device=args.device)
        torch.distributed.all_reduce(signum, torch.distributed.ReduceOp.MAX)
        ask(int(signum))
    return asked() != 0
