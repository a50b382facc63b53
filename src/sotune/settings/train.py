"""Fine-tuning with the weighted loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sotune.settings.schema import RenderingSettings, SeedSettings

PAPER_TARGET_MODULES = ("q_proj", "v_proj")
"""Linear layers that the paper adapts (Table 4). Models without them fall back on PEFT's own choice."""


CPU_TOKENS = 512
"""Tokens of a micro-batch on a CPU: the states of more leave its caches, and attention to a packed sequence grows."""
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
WATCHED_ONLY = frozenset({"report_to"})
"""Settings that nothing which training leaves depends on."""


class TrainingSettings(RenderingSettings, SeedSettings):
    """Training: LoRA with the weighted loss of Eq. 8. Names as in transformers and PEFT, defaults of Table 4."""

    finetuning_type: Literal["lora", "dora", "rslora", "full"] = Field(
        "lora",
        description="What is trained: a LoRA adapter (paper), a weight-decomposed or a rank-stabilized one, or full: "
        "all weights, which makes a whole model.",
    )
    r: int = Field(16, ge=1, description="Rank of the LoRA adapters (Table 4).")
    lora_alpha: int = Field(16, gt=0, description="The adapters' update is scaled by lora_alpha / r (Table 4).")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters (Table 4).")
    target_modules: tuple[str, ...] = Field(
        PAPER_TARGET_MODULES,
        min_length=1,
        description="Linear layers to adapt (Table 4); PEFT's own choice where a model has none.",
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="How the frozen weights are held: nf4: in 4 bits (QLoRA); needs pip install 'sotune[quantized]'.",
    )
    learning_rate: float = Field(4e-5, gt=0, description="Peak of the cosine schedule (Table 4).")
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises (Table 4)."
    )
    per_device_train_batch_size: int = Field(1, ge=1, description="Rows of a micro-batch (Table 4).")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Micro-batches of an optimizer step (Table 4).")
    max_tokens_per_batch: int | None = Field(
        None,
        ge=1,
        description="Cut a step's rows by length into micro-batches of at most so many tokens, padding included; "
        f"the step stays the same. Left out: {CPU_TOKENS} on a CPU, which works best in its caches; else no limit.",
    )
    packing: bool | None = Field(
        None,
        description="Put a micro-batch's rows one behind the other, none seeing another, instead of padding them; "
        "the step stays the same. Left out: on a CPU, where the model keeps rows apart.",
    )
    group_by_length: bool = Field(
        False, description="Put rows of like length in a micro-batch, for less padding; no matter for 1 row."
    )
    num_train_epochs: float = Field(2, gt=0, description="Passes over the kept rows (paper, §5.1).")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of passes.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0: not at all.")
    bf16: bool = Field(True, description="Compute in bfloat16 if the device can; always float32 on a CPU.")
    gradient_checkpointing: bool = Field(
        False, description="Compute each layer again in the backward pass instead of keeping it: less memory, slower."
    )
    eval_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between measurements of the loss on rows held out; left out: none."
    )
    eval_rows: int = Field(
        64, ge=1, description="Rows held out of training to measure on, with eval_steps; at most a tenth of all."
    )
    stop_at_harmful_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Stop once more of the probe's prompts than this are not refused, by phrases, and go back to the "
        "last look that was within; looks every eval_steps, else save_steps.",
    )
    probe_prompts: int = Field(
        16, ge=1, description="Prompts of the harmful reference that stop_at_harmful_rate asks at each look."
    )
    save_steps: int = Field(200, ge=1, description="Optimizer steps between checkpoints; a kill loses at most these.")
    report_to: tuple[str, ...] = Field(
        (), description="Who watches training too: tensorboard, wandb, mlflow, trackio; may be repeated."
    )

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [name for name in given if name not in TRACKERS]:
            raise ValueError(f"must be among {', '.join(TRACKERS)}, without {', '.join(odd)}")
        return given
