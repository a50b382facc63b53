"""What a training run depends on besides its data and its model."""

from __future__ import annotations

from dataclasses import dataclass

from sotune.errors import ConfigError
from sotune.rendering import TEMPLATES, Template

PAPER_TARGET_MODULES = ("q_proj", "v_proj")
"""Linear layers that the paper adapts (Table 4). Models without them fall back on PEFT's own choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Settings of LoRA fine-tuning, under the names of transformers and PEFT.

    Defaults are those of the paper (Table 4; epochs §5.1; template §4.1): AdamW with a cosine schedule on LoRA
    adapters. The paper gives neither weight decay nor gradient clipping; both are as in transformers, none and 1.0.

    Attributes:
        max_length: Most tokens of a row; the paper gives none. Longer rows keep prompt end and completion start.
        seed: Seed of the adapter's initialization, of the order of the rows and of dropout.
        template: How a row is rendered; must be that of weighing and evaluation.
        r: Rank of the adapters.
        lora_alpha: The adapters' update is scaled by ``lora_alpha / r``.
        lora_dropout: Dropout before the adapters, in [0, 1).
        target_modules: Names of the linear layers to adapt.
        learning_rate: Peak of the cosine schedule.
        warmup_ratio: Share of the steps that the learning rate takes to rise, in [0, 1).
        per_device_train_batch_size: Rows of a micro-batch, on each device.
        gradient_accumulation_steps: Micro-batches of an optimizer step.
        num_train_epochs: Passes over the rows.
        max_steps: Optimizer steps, instead of passes; ``None`` counts in epochs.
        max_grad_norm: The gradient is scaled down to this norm; 0 leaves it as it is.
        save_steps: Optimizer steps between checkpoints, the most that a killed run loses.
        bf16: Whether to compute in bfloat16 where the device can; otherwise, and on a CPU always, in float32.

    Raises:
        ConfigError: Any setting is out of range; all faults are named at once.
    """

    max_length: int
    seed: int = 0
    template: Template = "paper"
    r: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = PAPER_TARGET_MODULES
    learning_rate: float = 4e-5
    warmup_ratio: float = 0.03
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 2
    max_steps: int | None = None
    max_grad_norm: float = 1.0
    save_steps: int = 200
    bf16: bool = True

    def __post_init__(self) -> None:
        at_least_one = ("r", "per_device_train_batch_size", "gradient_accumulation_steps", "save_steps")
        rules = {
            "max_length": (self.max_length >= 2, "at least 2"),
            "seed": (0 <= self.seed < 2**32, "at least 0 and below 2**32"),
            "template": (self.template in TEMPLATES, f"one of {', '.join(TEMPLATES)}"),
            **{name: (getattr(self, name) >= 1, "at least 1") for name in at_least_one},
            "lora_alpha": (self.lora_alpha > 0, "above 0"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "in [0, 1)"),
            "target_modules": (bool(self.target_modules), "at least one name of a linear layer"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "warmup_ratio": (0 <= self.warmup_ratio < 1, "in [0, 1)"),
            "num_train_epochs": (self.num_train_epochs > 0, "above 0"),
            "max_steps": (self.max_steps is None or self.max_steps >= 1, "at least 1, or None to count in epochs"),
            "max_grad_norm": (self.max_grad_norm >= 0, "at least 0"),
        }
        faults = [
            f"{name} must be {rule}. Got {getattr(self, name)!r}" for name, (holds, rule) in rules.items() if not holds
        ]
        if faults:
            raise ConfigError("; ".join(faults))
