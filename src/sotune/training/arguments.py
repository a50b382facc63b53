"""The settings of a training as Trainer takes them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from sotune import processes
from sotune.errors import ConfigError
from sotune.models import ModelSpec, resolve_device
from sotune.settings import TrainingSettings
from sotune.training.trackers import tracker_arguments
from sotune.training.trained_model import train_dtype


def training_arguments(settings: TrainingSettings, model: ModelSpec, work_dir: Path) -> TrainingArguments:
    """Returns the settings as Trainer takes them.

    Raises:
        ConfigError: The device cannot be trained on, or the number type overflows.
    """
    device, by_rows = resolve_device(model.device), settings.max_tokens_per_batch is None
    accumulation = _accumulation(settings)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        # With a token budget a whole step is handed over at once, and cut by what it holds.
        per_device_train_batch_size=settings.per_device_train_batch_size * (1 if by_rows else accumulation),
        gradient_accumulation_steps=accumulation if by_rows else 1,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of all steps
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        train_sampling_strategy="sequential",  # ShuffledRows has the order
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda" and train_dtype(model, settings) == "bfloat16",
        **(_checkpointed_layers() if settings.gradient_checkpointing else {}),
        save_steps=settings.save_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log the last finite loss in place of a NaN
        disable_tqdm=True,
        **tracker_arguments(settings.report_to, work_dir.parent.name),
    )
    if arguments.device.type == "cuda" and arguments.world_size == 1:
        if device.index not in (None, arguments.device.index):
            raise ConfigError(
                f"training runs on the first visible CUDA device. Got {str(device)!r}; set CUDA_VISIBLE_DEVICES"
            )
        arguments._n_gpu = 1  # several devices are for torchrun; Trainer would fall back on nn.DataParallel
    return arguments


def _accumulation(settings: TrainingSettings) -> int:
    """Returns the micro-batches that each process takes to an optimizer step: its share of them, where they divide."""
    each, left = divmod(settings.gradient_accumulation_steps, processes.size())
    if left == 0:
        return each
    warnings.warn(
        f"{processes.size()} processes each take {settings.gradient_accumulation_steps} micro-batches to an optimizer "
        f"step, so that a step sees {processes.size()} times as many rows as in one process; with a multiple of "
        f"{processes.size()} as gradient_accumulation_steps it would see the same",
        stacklevel=2,
    )
    return settings.gradient_accumulation_steps


def _checkpointed_layers() -> dict[str, Any]:
    """Returns gradient checkpointing under the name that the installed transformers has for it."""
    known = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}
