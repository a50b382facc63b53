"""How the kept rows are handed to another tool."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sotune.settings.schema import SeedSettings

TargetName = Literal["trl", "axolotl", "llamafactory", "torchtune", "openai", "together", "fireworks", "hf", "csv"]
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)


class ExportSettings(SeedSettings):
    """Export: for which tool, what becomes of the weights, and where it goes."""

    to: TargetName = Field(description=f"The tool or service: {', '.join(TARGET_NAMES)}.")
    out: str | None = Field(None, description="Folder to write. Default: exports/TARGET in the run folder.")
    resample: int | None = Field(
        None, ge=1, description="Draw this many rows, each as often as its weight says, instead of writing weights."
    )
    plain: bool = Field(False, description="Leave weights out altogether: the kept rows, which count alike.")
    push_to_hub: str | None = Field(
        None, description="Hub repository OWNER/NAME for the rows, and for the adapter if there is one; see yes."
    )
    adapter: bool = Field(True, description="With push_to_hub: send the adapter too.")
    public: bool = Field(False, description="With push_to_hub: new repositories are public, not private.")
    yes: bool = Field(False, description="With push_to_hub: send it; without, say only what would be sent.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.plain and self.resample is not None:
            raise ValueError("plain leaves weights out, and resample draws by them; give one")
        return self
