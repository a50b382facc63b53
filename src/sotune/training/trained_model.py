"""The model that is trained: loaded, with an adapter or all of it, in the number type that it is trained in."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import set_seed

from sotune.errors import ConfigError
from sotune.models import DType, ModelSpec, load_causal_lm, resolve_device
from sotune.settings import TrainingSettings
from sotune.training.change import StepChange
from sotune.training.targets import resolve_target_modules


def train_dtype(model: ModelSpec, settings: TrainingSettings) -> DType:
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
    dtype = train_dtype(model, settings)
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


def load_trained(model: ModelSpec, settings: TrainingSettings, change: StepChange | None) -> Any:
    """Loads what is trained: a model with an adapter, or all of it, which no change knows how to hold."""
    if settings.finetuning_type == "full" and change is None:
        return _load_base(model, settings)
    return load_with_adapter(model, settings)


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
