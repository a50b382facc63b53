"""A `transformers.Trainer` whose loss weighs each row, for any script that already uses Trainer.

Trainer drops columns that the model does not take, and shows a custom loss function the outputs and labels only; a
column of weights would vanish without a word. `WeightedTrainer` keeps it, and raises where it is missing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from sotune.errors import ConfigError
from sotune.training.change import StepChange
from sotune.training.loss import compute_token_losses, compute_weighted_loss
from sotune.training.micro_batches import check_packing, compute_packed_losses, cut_rows, row_lengths, take_rows
from sotune.training.output_layer import compute_model_losses
from sotune.training.row_weights import RowWeights
from sotune.training.training_rows import LOSS_WEIGHT
from sotune.training.watch import Watch


class WeightedTrainer(RowWeights):
    """Trains a causal language model on the weighted loss of Eq. 8.

    Use it as Trainer, with rows of ``input_ids``, ``labels`` and ``loss_weight`` and a `WeightedCollator`. The loss
    of one optimizer step is the mean over all its rows, whatever their number a device, the accumulation steps and
    the processes, of weight times mean token loss. Data parallelism only. As with any Trainer, when the rows do not
    divide among several processes, accelerate fills the last batch of an epoch with rows from its start.

    Args:
        *args: As Trainer's.
        change: What a method changes about the training step.
        max_tokens_per_batch: Cuts a micro-batch further, by length, into parts of at most so many tokens.
        packing: Whether rows are put one behind the other in one sequence, instead of being padded.
        watch: What is looked at meanwhile, and noted in the log.
        **kwargs: As Trainer's.

    Raises:
        ConfigError: An option is set that the weighted loss would silently ignore, or the model's rows cannot be
            packed.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        change: StepChange | None = None,
        max_tokens_per_batch: int | None = None,
        packing: bool = False,
        watch: Watch | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._change, self._watch = change, watch
        if watch is not None:
            self.add_callback(watch)
        self._most_tokens, self._packing = max_tokens_per_batch, packing
        if packing:
            check_packing(self.model)
        if change is not None:
            change.start(self.model)
        ignored = {
            "label_smoothing_factor": self.label_smoother is not None,
            "compute_loss_func": self.compute_loss_func is not None,
            "use_liger_kernel": self.args.use_liger_kernel,
        }
        if any(ignored.values()):
            names = ", ".join(name for name, is_set in ignored.items() if is_set)
            raise ConfigError(f"WeightedTrainer has its own loss, which ignores {names}; unset it")
        self.require_whole_rows()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Computes the gradient of a micro-batch; with the step's last one, that of the change's own term too."""
        inputs = self._prepare_inputs(inputs)
        if self._change is not None:
            inputs = self._change.batch(inputs, self.state.global_step)
        parts = self._parts(inputs)
        losses = []
        for number, part in enumerate(parts):
            alone = number < len(parts) - 1  # gradients are exchanged with the last part
            with self.accelerator.no_sync(model) if alone else contextlib.nullcontext():
                losses.append(super().training_step(model, part, num_items_in_batch))
        if self._change is not None and self.accelerator.sync_gradients:
            self._join_gradients(self._change)
        return torch.stack(losses).sum()

    def _parts(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Cuts a micro-batch by length, where that is asked for; into as many parts in each process."""
        if self._most_tokens is None:
            return [inputs]
        lengths = row_lengths(inputs)
        how: dict[str, Any] = {"most_tokens": self._most_tokens, "packed": self._packing}
        parts = cut_rows(lengths, **how)
        if self.args.world_size > 1:
            most = int(self.accelerator.gather(torch.tensor([len(parts)], device=self.args.device)).max())
            parts = cut_rows(lengths, **how, at_least=most)
        return [take_rows(inputs, rows, max(lengths[row] for row in rows)) for rows in parts]

    def _join_gradients(self, change: StepChange) -> None:
        """Joins the gradient of the step, which all processes have by now, with the change's, the same in each."""
        with self.compute_loss_context_manager():
            penalty = change.penalty(self.model, self.state.global_step)
        if not isinstance(penalty, Tensor):
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        own = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
        joined = change.join([parameter.grad for parameter in parameters], own)
        for parameter, gradient in zip(parameters, joined, strict=True):
            parameter.grad.copy_(gradient)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs a step, with what the change and the watch note of it."""
        if "loss" in logs and (self._change or self._watch):
            noted = [source.notes() for source in (self._change, self._watch) if source is not None]
            notes = {name: value for found in noted for name, value in found.items()}
            super().log({**logs, "notes": notes}, start_time)
        else:
            super().log(logs, start_time)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the weighted loss of a micro-batch.

        Args:
            model: The model, perhaps wrapped for several devices.
            inputs: A batch of the collator.
            return_outputs: Whether to return the model's outputs beside the loss.
            num_items_in_batch: Rows of the accumulated batch, over all processes.

        Raises:
            DataError: The batch has no weights or no labels.
        """
        self.require_weights(inputs)
        labels, loss_weight = inputs["labels"], inputs[LOSS_WEIGHT]
        batch = {name: value for name, value in inputs.items() if name not in ("labels", LOSS_WEIGHT)}
        outputs = model(**batch) if return_outputs else None
        if outputs is not None:
            losses = compute_token_losses(outputs["logits"], labels)
        elif self._packing and len(labels) > 1 and "attention_mask" in batch:
            losses = compute_packed_losses(model, batch, labels)
        else:
            losses = compute_model_losses(model, batch, labels)
        if not model.training or num_items_in_batch is None:
            # Outside a training step, where Trainer counts tokens or nothing: the mean over this batch's own rows.
            loss = compute_weighted_loss(losses, labels, loss_weight, n_rows=len(labels))
        else:
            loss = compute_weighted_loss(losses, labels, loss_weight, n_rows=num_items_in_batch)
            if self.args.average_tokens_across_devices:
                # The rows were counted over all processes, and DDP will average the gradients over them.
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss
