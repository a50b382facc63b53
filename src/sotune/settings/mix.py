"""What a contaminated experiment is made of."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sotune.settings.extract import Format
from sotune.settings.schema import StageSettings


class MixSettings(StageSettings):
    """Mixing: what a contaminated experiment is made of, and where it goes."""

    task: str = Field(description="Rows of the task: a file, a folder or 'pattern*' of files, or a Hub id.")
    harmful: str = Field(description="Harmful rows: to contaminate with, to push away from, and to evaluate on.")
    out: str = Field(description="Folder to write; it must be empty or new.")
    n: int = Field(5000, ge=1, description="Number of training rows (paper, §5.1).")
    harmful_fraction: float = Field(0.1, ge=0, le=1, description="Harmful share of the training rows.")
    n_anchor: int = Field(50, ge=1, description="Rows of the safe anchor: 50 are enough (paper, Fig. 2).")
    n_reference: int = Field(1000, ge=1, description="Rows of the harmful reference.")
    safe_reference: str | None = Field(None, description="Safe answers to risky prompts and refusals, for a reference.")
    n_safe_reference: int = Field(500, ge=1, description="Rows of the safe reference, if there is one.")
    n_eval: int = Field(200, ge=1, description="Evaluation prompts of each kind, harmful and task.")
    seed: int = Field(0, ge=0, description="Seed of all draws.")
    refusals: str | None = Field(None, description="Rows that refuse harmful requests, to mix into the training rows.")
    refusal_fraction: float = Field(0.02, ge=0, le=1, description="Their share of the training rows.")
    task_where: tuple[str, ...] = Field((), description="Use only task rows with COLUMN=VALUE; may be repeated.")
    harmful_where: tuple[str, ...] = Field((), description="The same for the harmful rows.")
    refusals_where: tuple[str, ...] = Field((), description="The same for the refusals.")
    safe_reference_where: tuple[str, ...] = Field((), description="The same for the safe reference.")
    task_format: Format = Field("auto", description="Row format of the task; auto detects it from the columns.")
    harmful_format: Format = Field("auto", description="The same for the harmful rows.")
    refusals_format: Format = Field("auto", description="The same for the refusals.")
    safe_reference_format: Format = Field("auto", description="The same for the safe reference.")
    id_column: str = Field("id", description="Column that holds the rows' own ids, in all files; none to ignore them.")
    label_column: str = Field("mix_label", description="Column that train.jsonl adds: benign, harmful or refusal.")
    max_quarantine_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when more than this share of a file's rows cannot be read."
    )

    @model_validator(mode="after")
    def _has_refusals(self) -> Self:
        if self.refusals is None and "refusal_fraction" in self.model_fields_set:
            raise ValueError("refusal_fraction is given without a file of refusals; name one with refusals")
        if self.safe_reference is None and "n_safe_reference" in self.model_fields_set:
            raise ValueError("n_safe_reference is given without a file of such rows; name one with safe_reference")
        return self
