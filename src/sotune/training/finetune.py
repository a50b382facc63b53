"""LoRA fine-tuning on weighted rows, from records to an adapter folder."""

from __future__ import annotations

import contextlib
import gc
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from sotune import processes
from sotune.artifacts import library_versions, sha256_json
from sotune.errors import ConfigError
from sotune.models import DType, ModelSpec, load_causal_lm, model_fingerprint, resolve_device
from sotune.records import Record
from sotune.rendering import Renderer, load_renderer
from sotune.run_files import TRAINING_LOG
from sotune.settings import WATCHED_ONLY, TrainingSettings
from sotune.settings.train import CPU_TOKENS
from sotune.stopping import patiently, stop_if_asked
from sotune.training.adapter import save_adapter
from sotune.training.change import StepChange
from sotune.training.checkpoints import Checkpoints
from sotune.training.micro_batches import SAME_LOGITS, packed_difference
from sotune.training.progress import OnStep, TrainStep, count_held_out, steps_of, write_log
from sotune.training.step_callback import StepCallback
from sotune.training.targets import resolve_target_modules
from sotune.training.trackers import explain_faults, tracked_in, tracker_arguments
from sotune.training.train_result import TrainResult
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
    how = _How(trainer_class, resume, keep_checkpoints, on_step, change, probe)
    result = _train_and_hand_over(rows, renderer, model, settings, output_dir, how, start)
    if torch.cuda.is_available():
        # Trainer's parts refer to each other; without this the model would stay on the device for a while.
        gc.collect()
        torch.cuda.empty_cache()
    return result


def _train_and_hand_over(
    rows: TrainingRows,
    renderer: Renderer,
    model: ModelSpec,
    settings: TrainingSettings,
    output_dir: Path,
    how: _How,
    start: float,
) -> TrainResult:
    rows, held_out = rows.hold_out(count_held_out(len(rows.rows), settings), settings.seed)
    collate = WeightedCollator(pad_token_id=renderer.tokenizer.pad_token_id)
    measured = RowBatches(held_out, collate) if held_out else None
    watch = Watch(measured, how.probe, settings, output_dir / "checkpoints") if measured or how.probe else None
    trainer, checkpoints, figures = _trained(rows, watch, collate, model, settings, output_dir / "checkpoints", how)
    writes = trainer.is_world_process_zero()
    result = hand_over(
        trainer.model,
        rows,
        steps_of(trainer.state),
        renderer=renderer,
        base=model,
        settings=settings,
        output_dir=output_dir,
        seconds=time.perf_counter() - start,
        write=writes,
        figures=figures,
    )
    if writes and not how.keep_checkpoints:
        checkpoints.remove()
    trainer.accelerator.wait_for_everyone()
    return result


class _How(NamedTuple):
    trainer_class: type[WeightedTrainer]
    resume: bool
    keep_checkpoints: bool
    on_step: OnStep | None
    change: StepChange | None
    probe: Probe | None


def _trained(
    rows: TrainingRows,
    watch: Watch | None,
    collate: WeightedCollator,
    model: ModelSpec,
    settings: TrainingSettings,
    work_dir: Path,
    how: _How,
) -> tuple[WeightedTrainer, Checkpoints, Mapping[str, float]]:
    """Trains, on from a checkpoint where there is one; returns trainer, checkpoints and what a change says of it."""
    change = how.change
    with isolated_randomness(), tracked_in(work_dir.parent / "tensorboard"):
        arguments = _training_arguments(settings, model, work_dir)
        key = _run_key(rows, model, settings, how.trainer_class, change, arguments.world_size)
        checkpoints = Checkpoints(work_dir, key)
        with arguments.main_process_first(local=False):
            checkpoint = checkpoints.latest() if how.resume else None
            checkpoints.keep_only(checkpoint)
        network = _load_trained(model, settings, change)
        trainer = how.trainer_class(
            model=network,
            args=arguments,
            train_dataset=ShuffledRows(
                rows.rows,
                seed=settings.seed,
                group=settings.per_device_train_batch_size if settings.group_by_length else 1,
            ),
            data_collator=collate,
            callbacks=[StepCallback(checkpoints, how.on_step, change)],
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


def _training_arguments(settings: TrainingSettings, model: ModelSpec, work_dir: Path) -> TrainingArguments:
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
        bf16=device.type == "cuda" and _train_dtype(model, settings) == "bfloat16",
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


def _refuse_fsdp(trainer: WeightedTrainer) -> None:
    if trainer.is_fsdp_enabled:
        raise ConfigError(
            "an adapter is not gathered from the parts that FSDP leaves on each device; start without FSDP: each "
            "device then holds the frozen model, for which quantization and gradient_checkpointing make room"
        )


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


def _train_dtype(model: ModelSpec, settings: TrainingSettings) -> DType:
    """Settles ``auto``: bfloat16 where the device computes in it (Table 4), else float32."""
    if model.dtype == "float16":
        raise ConfigError("training in float16 overflows; use dtype auto, bfloat16 or float32")
    if model.dtype != "auto":
        return model.dtype
    on_cuda = resolve_device(model.device).type == "cuda"
    return "bfloat16" if settings.bf16 and on_cuda and torch.cuda.is_bf16_supported() else "float32"


def load_with_adapter(model: ModelSpec, settings: TrainingSettings) -> PeftModel:
    """Loads a model with a fresh adapter, seeded; seeds every generator of the process on the way.

    Raises:
        ConfigError: See `sotune.models.load_causal_lm`; or all weights are to be trained.
    """
    if settings.finetuning_type == "full":
        raise ConfigError(
            "finetuning_type full trains no adapter, and what is to be done needs one; use lora, or leave out the "
            "method and set hold: none"
        )
    base = _load_base(model, settings)
    targets = resolve_target_modules(base, settings.target_modules)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets.target_modules,
        fan_in_fan_out=targets.fan_in_fan_out,
        use_dora=settings.finetuning_type == "dora",
        use_rslora=settings.finetuning_type == "rslora",
    )
    set_seed(settings.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT still reads it
        return get_peft_model(base, config)


def _load_base(model: ModelSpec, settings: TrainingSettings) -> Any:
    dtype = _train_dtype(model, settings)
    if settings.finetuning_type == "full":
        if settings.quantization != "none":
            raise ConfigError("weights in 4 bits cannot be trained; use finetuning_type lora, or quantization none")
        dtype = "float32"  # steps of a small learning rate would be rounded away in bfloat16
    base = load_causal_lm(replace(model, dtype=dtype), frozen=False, quantization=settings.quantization)
    base.config.get_text_config().use_cache = False  # keys and values serve generation only
    # PEFT writes this name into every checkpoint, and asks the hub about it at every save.
    base.name_or_path = ""
    set_seed(settings.seed)
    return base


def _load_trained(model: ModelSpec, settings: TrainingSettings, change: StepChange | None) -> Any:
    """Loads what is trained: a model with an adapter, or all of it, which no change knows how to hold."""
    if settings.finetuning_type == "full" and change is None:
        return _load_base(model, settings)
    return load_with_adapter(model, settings)


def _run_key(
    rows: TrainingRows,
    model: ModelSpec,
    settings: TrainingSettings,
    trainer_class: type[WeightedTrainer],
    change: StepChange | None,
    world_size: int,
) -> str:
    return sha256_json(
        {
            "rows": rows.digest(),
            "model": model_fingerprint(model),
            "dtype": _train_dtype(model, settings),
            "settings": settings.model_dump(mode="json", exclude=set(WATCHED_ONLY)),
            "trainer": f"{trainer_class.__module__}.{trainer_class.__qualname__}",
            "change": change.name if change else None,
            "world_size": world_size,
            "versions": library_versions("torch", "transformers", "accelerate", "peft"),
        }
    )


@contextlib.contextmanager
def isolated_randomness() -> Iterator[None]:
    """Gives the caller's random state back at the end: Trainer seeds every generator of the process."""
    python = random.getstate()
    legacy_numpy = np.random.get_state()  # noqa: NPY002 - the legacy generator is what Trainer seeds
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy_numpy)  # noqa: NPY002
