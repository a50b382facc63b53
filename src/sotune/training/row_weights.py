"""What any Trainer needs whose loss weighs rows: the weights reach the loss, and an optimizer step counts its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from sotune.errors import ConfigError, DataError
from sotune.training.training_rows import LOSS_WEIGHT


class RowWeights(Trainer):  # type: ignore[misc]  # transformers comes without types
    """Keeps each row's weight in its batch, and counts rows where Trainer counts tokens."""

    counts_rows = True
    """Whether a step is divided by its rows; else by what the trainer itself counts."""
    remedy = f"give each row {LOSS_WEIGHT} and labels, and use WeightedCollator as data_collator"
    """What to do where a batch lacks something."""

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer drops columns that the model does not take.
        super()._set_signature_columns_if_needed()
        if LOSS_WEIGHT not in self._signature_columns:
            self._signature_columns.append(LOSS_WEIGHT)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Takes the micro-batches of one optimizer step, and counts their rows, in all processes that share it."""
        batches, n_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.counts_rows:
            return batches, n_items
        n_rows = torch.tensor(sum(len(batch["input_ids"]) for batch in batches), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            n_rows = self.accelerator.gather(n_rows).sum()
        return batches, n_rows

    def require_whole_rows(self) -> None:
        """Raises a ConfigError where the devices do not each hold whole rows."""
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        if parallelism is not None and parallelism.non_data_parallel_size > 1:
            raise ConfigError(
                f"{type(self).__name__} needs whole rows on each device, and tensor, context and sequence parallelism "
                "split them; use data parallelism"
            )

    def require_weights(self, batch: Mapping[str, Any]) -> None:
        """Raises a DataError where a batch has no weights or no labels."""
        if missing := [name for name in (LOSS_WEIGHT, "labels") if name not in batch]:
            found = ", ".join(sorted(batch))
            raise DataError(f"a batch lacks {' and '.join(missing)}. Got {found}; {self.remedy}")
