"""LoRA fine-tuning on weighted rows, from records to an adapter folder."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from sotune.artifacts import library_versions, sha256_json
from sotune.errors import ConfigError
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Record
from sotune.training.adapter import save_adapter
from sotune.training.checkpoints import Checkpoints
from sotune.training.data import ShuffledRows, TrainingRows, WeightedCollator, build_training_rows
from sotune.training.progress import OnStep, StepCallback, steps_of, write_log
from sotune.training.settings import TrainSettings
from sotune.training.targets import resolve_target_modules
from sotune.training.trainer import WeightedTrainer


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What fine-tuning left behind.

    Attributes:
        adapter: Folder of the adapter, in PEFT's format.
        log: JSONL file with step, loss, learning rate and gradient norm of each step.
        n_rows: Rows trained on.
        n_dropped: Records without a completion token to learn.
        n_truncated: Rows that lost tokens to ``max_length``.
        n_steps: Optimizer steps, those before a resumption too.
        final_loss: Mean loss over the last tenth of the steps; a single step of few rows would be noise.
        seconds: How long this call took, without what an earlier, interrupted one did.
    """

    adapter: Path
    log: Path
    n_rows: int
    n_dropped: int
    n_truncated: int
    n_steps: int
    final_loss: float
    seconds: float


def fine_tune(
    records: Sequence[Record],
    loss_weights: Mapping[str, float],
    *,
    model: ModelSpec,
    settings: TrainSettings,
    output_dir: Path,
    resume: bool = True,
    keep_checkpoints: bool = False,
    on_step: OnStep | None = None,
    trainer_class: type[WeightedTrainer] = WeightedTrainer,
) -> TrainResult:
    """Fine-tunes a model on weighted rows (Eq. 8) and saves a LoRA adapter.

    A run that was killed goes on from its last checkpoint when it is called again with the same arguments, and ends
    with the same bytes in ``adapter_model.safetensors`` (on a CPU, for one thread count). Start it under torchrun or
    accelerate to train on several devices. The caller's random state is left as it was.

    Args:
        records: The rows to train on, ids unique.
        loss_weights: One weight ≥ 0 for each record's id; a mean of 1 keeps the learning rate's scale.
        model: The base model.
        settings: Everything else the result depends on.
        output_dir: Gets ``adapter/``, ``training_log.jsonl`` and, while training, ``checkpoints/``.
        resume: Whether to go on from a checkpoint of the same run; ``False`` starts anew.
        keep_checkpoints: Whether to keep the last checkpoints. They hold pickles: hand over the adapter only.
        on_step: Called after each optimizer step.
        trainer_class: How to train; a method that changes the training step passes its own.

    Raises:
        DataError: A record has no weight, or nothing is left to learn.
        ConfigError: The model lacks the target modules, or the device cannot be trained on.
        SotuneError: Training diverged.
    """
    start = time.perf_counter()
    tokenizer = load_tokenizer(model)
    rows = build_training_rows(
        records, loss_weights, tokenizer, template=settings.template, max_length=settings.max_length
    )
    key = _run_key(rows, model, settings, trainer_class)
    checkpoints = Checkpoints(output_dir / "checkpoints", key)
    with _isolated_randomness(settings.seed):
        arguments = _training_arguments(settings, model, checkpoints.folder)
        trainer = trainer_class(
            model=_add_adapter(load_causal_lm(model), settings),
            args=arguments,
            train_dataset=ShuffledRows(rows.rows, seed=settings.seed),
            data_collator=WeightedCollator(pad_token_id=tokenizer.pad_token_id or 0),
            callbacks=[StepCallback(checkpoints, on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = checkpoints.latest() if resume else None
        with arguments.main_process_first(local=False):
            checkpoints.keep_only(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
