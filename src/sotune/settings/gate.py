"""What must hold for a command to succeed."""

from __future__ import annotations

from pydantic import Field

from sotune.settings.schema import StageSettings


class GateSettings(StageSettings):
    """Gate: what must hold, or the command leaves with exit status 3 and says by how much."""

    require_pass: float | None = Field(
        None, gt=0, lt=1, description="At most this share of harm like the reference passes the cut, by its 95 % bound."
    )
    require_harmful_rate: float | None = Field(
        None, ge=0, le=1, description="The upper end of the tuned model's harmful rate is at most this."
    )
    require_over_refusal: float | None = Field(
        None, ge=0, le=1, description="The upper end of the tuned model's over-refusal is at most this."
    )
