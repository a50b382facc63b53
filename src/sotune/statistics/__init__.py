"""Exact statistics of counts: pure functions of numbers, which every layer may use."""

from sotune.statistics.binomial import lower_bound, most_successes, predicted_count, upper_bound

__all__ = ["lower_bound", "most_successes", "predicted_count", "upper_bound"]
