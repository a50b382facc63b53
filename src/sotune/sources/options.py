"""What a user may say about a source, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from sotune.errors import ConfigError
from sotune.settings import Format, LearnTurns

FORMATS: tuple[Format, ...] = get_args(Format)
CONVERSATION_FORMATS: tuple[Format, ...] = ("messages", "sharegpt", "text")
"""Formats of rows that hold the whole conversation in one column."""
DEFAULT_ID_COLUMN = "id"
NO_ID_COLUMN = "none"
DEFAULT_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read one set.

    Attributes:
        format: The schema of the rows; ``auto`` detects it from the columns.
        where: Row filters, each ``COLUMN=VALUE``. Several on one column: any of them; on several: all.
        id_column: The column with the user's own ids; ``none``: they are ignored. A row without one is named by a
            hash of its content.
        prompt_column: The prompt, where it has none of the usual names; None: one of those. Without a completion, it
            may hold the whole conversation.
        completion_column: The completion likewise; ``rejected`` reads the worse answer of a preference set.
        conversation_column: A column with the whole conversation; None: one of the usual names.
        system_column: A column with the system prompt; None: ``system`` or ``system_prompt``, if there is one.
        learn_turns: Which assistant turns of a conversation are learned: all that are not marked off, or the last.
        split: The split of a Hugging Face data set, or of a folder of files, which their names tell.
        subset: Its subset (configuration), or with a slash at the end a folder of it; None: its only one. Of a folder
            of files: a folder in it; None: all.
        revision: Its Git revision on the Hub; None: the newest.
        limit: Read no more than this many rows that pass the filters; None: all.
        max_row_bytes: A larger row is quarantined.
        max_rows: More rows are an error.
        max_expansion: A file that holds more than this many times its own size, beyond 256 MiB, is an error.
        flags: What the flags of this set's own columns begin with, for errors.

    Raises:
        ConfigError: A value is out of range, or two contradict each other.
    """

    format: Format = "auto"
    where: tuple[str, ...] = ()
    id_column: str = DEFAULT_ID_COLUMN
    prompt_column: str | None = None
    completion_column: str | None = None
    conversation_column: str | None = None
    system_column: str | None = None
    learn_turns: LearnTurns = "all"
    split: str = DEFAULT_SPLIT
    subset: str | None = None
    revision: str | None = None
    limit: int | None = None
    max_row_bytes: int = 1 << 22
    max_rows: int = 3_000_000
    max_expansion: int = 100
    flags: str = "--"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format must be one of {', '.join(FORMATS)}. Got {self.format!r}")
        for name in ("limit", "max_row_bytes", "max_rows", "max_expansion"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1. Got {value}")
        if self.names_pair_columns and self.format not in ("auto", "prompt-completion", "preference"):
            raise ConfigError(
                f"prompt_column and completion_column need the format prompt-completion. Got {self.format!r}; "
                f"leave the format out"
            )
        if self.conversation_column is not None and self.names_pair_columns:
            raise ConfigError(
                "conversation_column names the column of prompt and completion together; name either it or those two"
            )
        if self.conversation_column is not None and self.format not in ("auto", *CONVERSATION_FORMATS):
            raise ConfigError(
                f"conversation_column needs one of the formats {', '.join(CONVERSATION_FORMATS)}. Got {self.format!r}; "
                f"leave the format out"
            )

    @property
    def names_pair_columns(self) -> bool:
        """Whether the user named a prompt or completion column."""
        return self.prompt_column is not None or self.completion_column is not None


DEFAULT_OPTIONS = SourceOptions()
