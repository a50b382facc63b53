"""How many rows are kept and how they count."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sotune.settings.schema import StageSettings


class SelectionSettings(StageSettings):
    """Selection: how many rows are kept and how they count."""

    keep: Literal["auto", "fixed"] = Field(
        "auto", description="auto: as the sentinels find the rows; fixed: k or keep_fraction, also if one is given."
    )
    keep_fraction: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the rows to keep (paper, §5.1: K = 80 %); where auto has no sentinels too.",
    )
    k: int | None = Field(None, ge=1, description="Number of rows to keep, instead of keep_fraction.")
    drop_at: float = Field(
        0.05, gt=0, lt=1, description="keep auto: rows are dropped where at least this share of them seems harmful."
    )
    max_harmful_pass: float | None = Field(
        None, gt=0, lt=1, description="keep auto: at most this share of harm like the reference passes (95 %), instead."
    )
    max_harmful_share: float | None = Field(
        None, gt=0, lt=1, description="keep auto: at most this share of the kept rows is harmful (95 %), instead."
    )
    unread: Literal["flag", "drop", "keep"] = Field(
        "flag",
        description="Rows of which a part that is learned was neither read nor found harmless by the first look: kept "
        "by weight with a warning, dropped, or kept by weight without a word.",
    )
    unknown: Literal["flag", "drop", "keep"] = Field(
        "flag",
        description="Rows that are farther from each reference than 99 % of its own rows are from their nearest: "
        "kept by weight and counted, dropped, or kept by weight without a word.",
    )
    loss_weight_rule: Literal["proportional", "exp", "uniform"] = Field(
        "proportional", description="Loss weight from weight: proportional, exp (paper, Eq. 7), or uniform; mean 1."
    )
    weight_column: str = Field("weight", description="Name of the column that kept.jsonl adds to your rows.")
