"""How a run is served."""

from __future__ import annotations

from pydantic import Field

from sotune.settings.schema import Bytes, StageSettings


class ServeSettings(StageSettings):
    """Service: where it listens, who may ask, and how much."""

    host: str = Field("127.0.0.1", description="Address to listen on; any but this machine's own needs a token.")
    port: int = Field(8765, ge=0, le=65535, description="Port to listen on; 0: any that is free.")
    token_env: str = Field("SOTUNE_TOKEN", description="Environment variable that holds the token, if there is one.")
    max_body: Bytes = Field(4_000_000, ge=1, description="Largest request, in bytes or like 4MB.")
    max_rows: int = Field(1_000, ge=1, description="Most rows of a job.")
    max_chars: int = Field(100_000, ge=1, description="Most characters of text of a row.")
    max_waiting: int = Field(20_000, ge=1, description="Most rows that wait; what comes then is sent away (503).")
    batch_rows: int = Field(256, ge=1, description="Rows of waiting jobs that are encoded together, at least one job.")
    batch_wait: float = Field(0.005, ge=0, description="Seconds that a job waits for others to be encoded with.")
    audit: str | None = Field(
        None, description="File that gets a line for each job, without texts. Default: RUN-audit.jsonl beside the run."
    )
