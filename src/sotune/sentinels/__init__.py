"""Sentinels: known harmful rows that are kept back, to choose settings by and to measure what passes."""

from sotune.sentinels.folds import LEAST_SENTINELS, Folds, normalize_prompt, split_by_prompt, split_records
from sotune.sentinels.measuring import (
    Fitted,
    LearnedWithSentinels,
    Sentinels,
    fit_with_sentinels,
    log_relative,
    solved_rows,
    weigh_with_sentinels,
)
from sotune.sentinels.promise import (
    CONFIDENCE,
    Cut,
    HarmfulShare,
    Rate,
    cut_at_harmful_share,
    cut_at_pass_rate,
    cut_where_harm_thins,
    estimate_harmful_share,
    harmful_rows_kept,
    harmful_share_kept,
    sentinels_needed,
)
from sotune.sentinels.tuning import Grid, Tried, Tuned, tune_settings

__all__ = [
    "CONFIDENCE",
    "LEAST_SENTINELS",
    "Cut",
    "Folds",
    "Grid",
    "Fitted",
    "LearnedWithSentinels",
    "Sentinels",
    "fit_with_sentinels",
    "HarmfulShare",
    "Rate",
    "Tried",
    "Tuned",
    "cut_at_harmful_share",
    "cut_at_pass_rate",
    "cut_where_harm_thins",
    "estimate_harmful_share",
    "harmful_rows_kept",
    "harmful_share_kept",
    "log_relative",
    "normalize_prompt",
    "sentinels_needed",
    "solved_rows",
    "split_by_prompt",
    "split_records",
    "tune_settings",
    "weigh_with_sentinels",
]
