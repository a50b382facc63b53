"""Weights as numbers of copies, for tools that count all rows alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sotune.errors import DataError


def resample(weights: Sequence[float], n: int, *, seed: int) -> list[int]:
    """Draws ``n`` places with shares as the weights say, in random order.

    Systematic sampling: a row of weight w stands there ⌊n·w/Σw⌋ or ⌈n·w/Σw⌉ times, the least variance that whole
    copies allow.

    Args:
        weights: One for each row, ≥ 0, not all 0.
        n: How many to draw.
        seed: Of the draw.

    Raises:
        DataError: A weight is negative or not finite, or all are 0.
    """
    values = np.asarray(weights, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise DataError("rows can only be drawn by weights that are finite, at least 0 and not all 0")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(values))
    ends = np.cumsum(values[order]) / values.sum() * n
    ends[-1] = n  # where the sum fell a rounding error short
    drawn = order[np.searchsorted(ends, np.arange(n) + generator.random(), side="right")]
    return [int(place) for place in generator.permutation(drawn)]
