"""What is read, and which frozen model turns a row into a vector."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from sotune.settings.schema import RenderingSettings, StageSettings

Format = Literal["auto", "prompt-completion", "alpaca", "sharegpt", "messages", "preference", "text"]
LearnTurns = Literal["all", "last"]


class SourceSettings(StageSettings):
    """Data: what is read, and what happens to rows that cannot be."""

    data: str = Field(description="Downstream rows to weigh: a file, a folder or 'pattern*' of files, or a Hub id.")
    format: Format = Field("auto", description="Row format of the downstream rows; auto detects it from the columns.")
    where: tuple[str, ...] = Field((), description="Use only downstream rows with COLUMN=VALUE; may be repeated.")
    id_column: str = Field(
        "id", description="Column of the rows' own ids, or none; rows without one get a content hash."
    )
    prompt_column: str | None = Field(
        None, description="Downstream column of the prompt, or alone of a whole conversation, instead of detecting it."
    )
    completion_column: str | None = Field(
        None, description="Downstream column of the completion, instead of detecting it."
    )
    conversation_column: str | None = Field(None, description="Downstream column that holds the whole conversation.")
    system_column: str | None = Field(
        None, description="Downstream column of the system prompt; default: system or system_prompt, if there is one."
    )
    learn_turns: LearnTurns = Field(
        "all",
        description="Assistant turns that are weighed and trained on: all that are not marked off (weight 0), or last.",
    )
    split: str = Field("train", description="Split of the downstream data: a dataset's own, or by the names of files.")
    subset: str | None = Field(None, description="Its subset (configuration), or a folder in its folder.")
    data_revision: str | None = Field(None, description="Its revision on the Hub.")
    limit: int | None = Field(None, ge=1, description="Read at most this many downstream rows.")
    max_row_bytes: int = Field(1 << 22, ge=1, description="Quarantine rows larger than this.")
    max_rows: int = Field(3_000_000, ge=1, description="Stop at a set of more rows than this.")
    max_expansion: int = Field(
        100, ge=1, description="Stop at a file that holds over this many times its own size, beyond 256 MiB."
    )
    max_quarantine_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when more than this share of a set's rows cannot be read."
    )


class DataSettings(SourceSettings):
    """Data: what is read, and what happens to rows that cannot be."""

    safe_anchor: str = Field(description="Trusted rows of the same task: 50 are enough (paper, Fig. 2).")
    harmful_reference: str = Field(description="Known harmful rows, to push away from.")
    references: str | None = Field(
        None,
        description="Both references in one: a named set like beavertails, or rows that is_safe, a label, or "
        "chosen and rejected tell apart.",
    )
    safe_reference: str | None = Field(
        None, description="General rows that meet risky prompts safely (refusals, safe answers), to be pulled towards."
    )
    safe_format: Format = Field("auto", description="The same for the safe anchor.")
    harmful_format: Format = Field("auto", description="The same for the harmful reference.")
    safe_reference_format: Format = Field("auto", description="The same for the safe reference.")
    safe_where: tuple[str, ...] = Field((), description="The same for the safe anchor.")
    harmful_where: tuple[str, ...] = Field((), description="The same for the harmful reference.")
    safe_reference_where: tuple[str, ...] = Field((), description="The same for the safe reference.")
    safe_prompt_column: str | None = Field(None, description="The same for the safe anchor.")
    harmful_prompt_column: str | None = Field(None, description="The same for the harmful reference.")
    safe_reference_prompt_column: str | None = Field(None, description="The same for the safe reference.")
    safe_completion_column: str | None = Field(None, description="The same for the safe anchor.")
    harmful_completion_column: str | None = Field(
        None, description="The same for the harmful reference; rejected reads the worse answers of a preference set."
    )
    safe_reference_completion_column: str | None = Field(None, description="The same for the safe reference.")
    truth_column: str | None = Field(
        None,
        description="Downstream column that says whether a row is harmful; used by the oracles and to count what is "
        "kept, hidden from all other methods.",
    )
    safety_pairs: str | None = Field(
        None, description="Harmful prompts with refusals, for methods that need them; default: the model's own."
    )
    min_reference_rows: int = Field(
        10, ge=1, description="Stop when the anchor or the reference has fewer rows (paper, Fig. 2: 10 to 50 saturate)."
    )


class CodeSettings(StageSettings):
    """Code: whose program is run."""

    trust_remote_code: bool = Field(False, description="Run Python code that a model's folder ships. Dangerous.")


class LoadingSettings(CodeSettings):
    """Loading: how models are held in memory, judges included."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Number type of the models.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")


class TokenSettings(RenderingSettings, CodeSettings):
    """Tokens: whose tokenizer and template turn a row into what a model reads."""

    model: str | None = Field(None, description="Causal LM that will be fine-tuned: a folder or a Hub id.")
    revision: str | None = Field(None, description="Revision of the model on the Hub.")


class InspectionSettings(SourceSettings, TokenSettings):
    """Inspection: which rows are shown."""

    rows: int = Field(3, ge=0, description="How many of the first rows are shown.")
    row: str | None = Field(None, description="Show this row instead: its id, or its line.")


class RepresentationSettings(LoadingSettings, TokenSettings):
    """Representations: which frozen model turns a row into a vector."""

    encoder: str | None = Field(None, description="Another encoder for the weights: sentence-transformers:PATH.")
    encoder_parts: Literal["apart", "together"] = Field(
        "apart", description="A sentence encoder reads prompt and completion apart, or together as one text."
    )
    answer_alone: bool = Field(
        False,
        description="A sentence encoder looks at each answer without its prompt too: finds harmful answers to harmless "
        "prompts, and costs a little elsewhere.",
    )
    max_windows: int = Field(
        32,
        ge=1,
        description="Parts of a long answer that are read each for itself, the worst of which represents the row; 1: "
        "rows are read whole, cut where the encoder ends.",
    )
    sentence_budget: float = Field(
        0.03,
        ge=0,
        le=1,
        description="A sentence encoder looks first at the words of all answers alone; the most suspicious sentences "
        "of short ones are read for themselves, up to this share of what is read anyway, and of long ones the parts "
        "that do not look harmless; 0: no such look, and all parts of long answers are read.",
    )
    layer: int | Literal["auto"] = Field(
        "auto",
        description="Layer to read: -1 is the last (paper, §4.1), auto the one that best separates references.",
    )
    pooling: Literal["last", "completion_mean", "completion_minus_prompt", "prompt_and_completion", "auto"] = Field(
        "auto",
        description="How states become a vector: last token (paper), mean, mean minus the prompt's end, the prompt's "
        "mean and the completion's joined, or auto.",
    )
    batch_tokens: int = Field(
        8192,
        ge=16,
        description="Token limit of a forward pass, padding included; on a CPU at most 1024, which is faster.",
    )
    cache: bool = Field(
        True,
        description="Share representations between runs, in ~/.cache/sotune or the folder that SOTUNE_CACHE names.",
    )
    cache_dir: str | None = Field(None, description="Cache representations in this folder instead, and only there.")

    @field_validator("layer", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        # A union would name one fault for each of its members.
        if value != "auto" and not re.fullmatch(r"-?\d+", str(value)):
            raise ValueError("must be a whole number or auto")
        return value if value == "auto" else int(str(value))
