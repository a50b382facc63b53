"""LoRA fine-tuning on weighted rows, from records to an adapter folder."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sotune.artifacts import library_versions, sha256_json
from sotune.errors import ConfigError
from sotune.models import ModelSpec, model_fingerprint
from sotune.records import Record
from sotune.rendering import Renderer, load_renderer
from sotune.run_files import TRAINING_LOG
from sotune.settings import WATCHED_ONLY, TrainingSettings
from sotune.settings.train import CPU_TOKENS
from sotune.stopping import patiently, stop_if_asked
from sotune.training.adapter import save_adapter
from sotune.training.arguments import training_arguments
from sotune.training.change import StepChange
from sotune.training.checkpoints import Checkpoints
from sotune.training.micro_batches import SAME_LOGITS, packed_difference
from sotune.training.progress import OnStep, TrainStep, count_held_out, steps_of, write_log
from sotune.training.step_callback import StepCallback
from sotune.training.trackers import explain_faults, tracked_in
from sotune.training.train_result import TrainResult
from sotune.training.trained_model import isolated_randomness, load_trained, train_dtype
from sotune.training.trainer import WeightedTrainer
from sotune.training.training_rows import (
    RowBatches,
    ShuffledRows,
    TrainingRows,
    WeightedCollator,
    build_training_rows,
)
from sotune.training.watch import Probe, Watch


def fine_tune(
    records: Sequence[Record],
    loss_weights: Mapping[str, float],
    *,
    model: ModelSpec,
    settings: TrainingSettings,
    output_dir: Path,
    resume: bool = True,
    keep_checkpoints: bool = False,
    on_step: OnStep | None = None,
    trainer_class: type[WeightedTrainer] = WeightedTrainer,
    change: StepChange | None = None,
    learned_tokens: Mapping[str, torch.Tensor] | None = None,
    probe: Probe | None = None,
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
        resume: Whether to go on from a checkpoint of the same run; ``False`` starts over.
        keep_checkpoints: Whether to keep the last checkpoint, from before the last step. It holds pickles:
            never hand it over.
        on_step: Called after each optimizer step.
        trainer_class: How to train, for a trainer of one's own.
        change: What a method changes about the training step.
        learned_tokens: By id, which completion tokens carry loss; see `sotune.training.training_rows.TrainingRow`.
        probe: Asks the model risky prompts, for ``stop_at_harmful_rate``.

    Raises:
        DataError: A record has no weight, or nothing is left to learn.
        ConfigError: The model lacks the target modules, or the device cannot be trained on.
        SotuneError: Training diverged.
        Stopped: It was told to stop; a checkpoint is there to go on from.
    """
    start, renderer = time.perf_counter(), load_renderer(model, settings)
    rows = build_training_rows(records, loss_weights, renderer, learned_tokens=learned_tokens)
    job = _Job(model, settings, output_dir, trainer_class, resume, keep_checkpoints, on_step, change, probe)
    result = _train_and_hand_over(job, rows, renderer, start)
    if torch.cuda.is_available():
        # Trainer's parts refer to each other; without this the model would stay on the device for a while.
        gc.collect()
        torch.cuda.empty_cache()
    return result


@dataclass(frozen=True)
class _Job:
    """One training; see `fine_tune`."""

    model: ModelSpec
    settings: TrainingSettings
    output_dir: Path
    trainer_class: type[WeightedTrainer]
    resume: bool
    keep_checkpoints: bool
    on_step: OnStep | None
    change: StepChange | None
    probe: Probe | None

    @property
    def work_dir(self) -> Path:
        """Where checkpoints lie."""
        return self.output_dir / "checkpoints"

    def key(self, rows: TrainingRows, world_size: int) -> str:
        """Returns what a checkpoint must be of to go on from it."""
        return sha256_json(
            {
                "rows": rows.digest(),
                "model": model_fingerprint(self.model),
                "dtype": train_dtype(self.model, self.settings),
                "settings": self.settings.model_dump(mode="json", exclude=set(WATCHED_ONLY)),
                "trainer": f"{self.trainer_class.__module__}.{self.trainer_class.__qualname__}",
                "change": self.change.name if self.change else None,
                "world_size": world_size,
                "versions": library_versions("torch", "transformers", "accelerate", "peft"),
            }
        )


def _train_and_hand_over(job: _Job, rows: TrainingRows, renderer: Renderer, start: float) -> TrainResult:
    settings = job.settings
    rows, held_out = rows.hold_out(count_held_out(len(rows.rows), settings), settings.seed)
    collate = WeightedCollator(pad_token_id=renderer.tokenizer.pad_token_id)
    measured = RowBatches(held_out, collate) if held_out else None
    watch = Watch(measured, job.probe, settings, job.work_dir) if measured or job.probe else None
    trainer, checkpoints, figures = _trained(job, rows, watch, collate)
    writes = trainer.is_world_process_zero()
    result = hand_over(
        trainer.model,
        rows,
        steps_of(trainer.state),
        renderer=renderer,
        base=job.model,
        settings=settings,
        output_dir=job.output_dir,
        seconds=time.perf_counter() - start,
        write=writes,
        figures=figures,
    )
    if writes and not job.keep_checkpoints:
        checkpoints.remove()
    trainer.accelerator.wait_for_everyone()
    return result


def _trained(
    job: _Job, rows: TrainingRows, watch: Watch | None, collate: WeightedCollator
) -> tuple[WeightedTrainer, Checkpoints, Mapping[str, float]]:
    """Trains, on from a checkpoint where there is one; returns trainer, checkpoints and what a change says of it."""
    settings, change = job.settings, job.change
    with isolated_randomness(), tracked_in(job.output_dir / "tensorboard"):
        arguments = training_arguments(settings, job.model, job.work_dir)
        checkpoints = Checkpoints(job.work_dir, job.key(rows, arguments.world_size))
        with arguments.main_process_first(local=False):
            checkpoint = checkpoints.latest() if job.resume else None
            checkpoints.keep_only(checkpoint)
        network = load_trained(job.model, settings, change)
        trainer = job.trainer_class(
            model=network,
            args=arguments,
            train_dataset=ShuffledRows(
                rows.rows,
                seed=settings.seed,
                group=settings.per_device_train_batch_size if settings.group_by_length else 1,
            ),
            data_collator=collate,
            callbacks=[StepCallback(checkpoints, job.on_step, change)],
            **_own_options(change, watch),
            **_layout(settings, network, arguments),
        )
        _refuse_fsdp(trainer)
        trainer.remove_callback(PrinterCallback)
        explain_faults(trainer)
        if change and checkpoint:
            change.restore(checkpoints.state(checkpoint))
        with patiently():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if (step := trainer.state.global_step) < trainer.state.max_steps:
            stop_if_asked(f"the checkpoint of step {step} of {trainer.state.max_steps} is kept")
        figures = watch.finish(trainer.model) if watch else {}
        figures |= change.finish(trainer.model) if change else {}
    return trainer, checkpoints, figures


def _own_options(change: StepChange | None, watch: Watch | None) -> dict[str, Any]:
    """Returns what a trainer of ours takes beyond Trainer's arguments, as far as it is asked for."""
    options = {"change": change, "watch": watch}
    return {name: value for name, value in options.items() if value}


def _layout(settings: TrainingSettings, network: Any, arguments: TrainingArguments) -> dict[str, Any]:
    """Returns how the rows of a micro-batch are computed: the settings, or what is fastest and the same.

    On a CPU, rows are packed in parts of a bounded size, as far as the model keeps them apart; several rows alone are
    worth it. On a GPU short parts would leave it idle.
    """
    most_tokens, packing = settings.max_tokens_per_batch, settings.packing
    if arguments.device.type == "cpu" and arguments.per_device_train_batch_size > 1:
        most_tokens = most_tokens or CPU_TOKENS
        packing = packed_difference(network) <= SAME_LOGITS if packing is None else packing
    options = {"max_tokens_per_batch": most_tokens, "packing": packing}
    return {name: value for name, value in options.items() if value}


def hand_over(
    network: PeftModel,
    rows: TrainingRows,
    steps: Sequence[TrainStep],
    *,
    renderer: Renderer,
    base: ModelSpec,
    settings: TrainingSettings,
    output_dir: Path,
    seconds: float,
    write: bool = True,
    figures: Mapping[str, float] | None = None,
) -> TrainResult:
    """Saves what a training loop made, adapter and log, and says what it is.

    Args:
        network: The trained model with its adapter.
        rows: What it was trained on.
        steps: Its steps.
        renderer: How its rows became tokens; the adapter gets the tokenizer and the template.
        base: The base model.
        settings: How it was trained.
        output_dir: Gets ``adapter/`` and ``training_log.jsonl``.
        seconds: How long it took.
        write: Whether this process is the one that saves.
        figures: What a change to the training step says of the whole.
    """
    last = steps[-max(1, len(steps) // 10) :]
    result = TrainResult(
        adapter=output_dir / "adapter",
        log=output_dir / TRAINING_LOG.name,
        n_rows=len(rows.rows),
        dropped=rows.dropped,
        n_truncated=len(rows.truncated),
        n_lossy=len(rows.lossy),
        n_steps=len(steps),
        final_loss=sum(step.loss for step in last) / len(last),
        seconds=seconds,
        figures=figures or {},
    )
    if write:
        write_log(result.log, steps)
        save_adapter(
            network,
            result.adapter,
            renderer=renderer,
            base=base,
            settings=settings,
            n_rows=result.n_rows,
            n_steps=result.n_steps,
        )
    return result


def _refuse_fsdp(trainer: WeightedTrainer) -> None:
    if trainer.is_fsdp_enabled:
        raise ConfigError(
            "an adapter is not gathered from the parts that FSDP leaves on each device; start without FSDP: each "
            "device then holds the frozen model, for which quantization and gradient_checkpointing make room"
        )
