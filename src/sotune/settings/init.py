"""What `sotune init` asks."""

from __future__ import annotations

from pydantic import Field

from sotune.settings.extract import SourceSettings
from sotune.settings.schema import SeedSettings


class InitSettings(SourceSettings, SeedSettings):
    """Beginning: what a first configuration says; whatever is left out is asked for in a terminal."""

    safe_anchor: str | None = Field(None, description="Trusted rows of the task; left out, rows are proposed.")
    propose: int = Field(30, ge=1, le=500, description="How many rows are proposed for an anchor.")
    accept: str | None = Field(
        None, description="Proposed rows that you accept, like 1,3-9, or all; you should have read them."
    )
    anchor_file: str = Field("anchor.jsonl", description="File that the accepted rows are written to.")
    references: str | None = Field(
        None, description="Both references in one: a named set like beavertails, or a file that tells its sides apart."
    )
    harmful_reference: str | None = Field(None, description="Known harmful rows, instead of references.")
    safe_reference: str | None = Field(None, description="Safe answers to risky prompts, instead of references.")
    model: str | None = Field(None, description="Causal LM that will be fine-tuned: a folder or a Hub id.")
    encoder: str | None = Field(None, description="Another encoder for the weights: sentence-transformers:PATH.")
    eval_prompts: str | None = Field(None, description="Prompts for the evaluation: a file, or packs by name.")
    run_folder: str = Field("runs/first", description="The run folder that the file names.")
    out: str = Field("run.yaml", description="The file to write.")
    force: bool = Field(False, description="Overwrite that file.")
