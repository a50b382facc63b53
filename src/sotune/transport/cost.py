"""Ground costs that hand out blocks of rows, so that the full ``[n, m]`` matrix need never exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sotune.errors import DataError

BLOCK_ELEMENTS = 4_000_000
"""How many cost entries one block holds: 16 MB in float32, which stays near the cache and bounds memory."""


class GroundCost(Protocol):
    """A cost between ``n`` rows and ``m`` columns, read in blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """The pair ``(n, m)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the entries."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the entries are computed."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns a fresh ``[stop - start, m]`` block, which the caller may overwrite."""
        ...


class DenseCost:
    """A cost matrix that exists already.

    Args:
        matrix: Ground cost, ``[n, m]``, finite.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise DataError(f"cost must be a matrix with at least one row and column. Got shape {tuple(matrix.shape)}")
        if not torch.isfinite(matrix).all():
            raise DataError("cost holds NaN or infinite entries; look for NaN in the representations")
        self._matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """The pair ``(n, m)``."""
        return self._matrix.shape[0], self._matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the entries."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries are computed."""
        return self._matrix.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns a fresh ``[stop - start, m]`` block."""
        return self._matrix[start:stop].clone()


class CosineCost:
    """Cosine distance ``1 − cos(x_i, y_j)``, in [0, 2]: the paper's ground cost (§4.1).

    Args:
        x: Rows, ``[n, d]``; scaled to unit length here.
        y: Columns, ``[m, d]``.

    Raises:
        DataError: The widths differ, or a row is zero or not finite: it has no direction.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise DataError(
                f"representations must be [n, d] and [m, d] of one width d. "
                f"Got {tuple(x.shape)} and {tuple(y.shape)}; were they made by the same encoder?"
            )
        self._x = normalize_rows(x, name="rows")
        self._y = normalize_rows(y, name="columns")

    @property
    def shape(self) -> tuple[int, int]:
        """The pair ``(n, m)``."""
        return self._x.shape[0], self._y.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the entries."""
        return self._x.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries are computed."""
        return self._x.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns a fresh ``[stop - start, m]`` block."""
        return (self._x[start:stop] @ self._y.T).neg_().add_(1.0).clamp_(min=0.0)


COSTS: dict[str, Callable[[Tensor, Tensor], GroundCost]] = {"cosine": CosineCost}
"""Ground costs by name."""


def normalize_rows(x: Tensor, *, name: str = "x") -> Tensor:
    """Scales each row to unit length.

    Args:
        x: Rows, ``[n, d]``.
        name: What an error calls them.

    Raises:
        DataError: A row is zero or not finite.
    """
    norms = x.norm(dim=1, keepdim=True)
    bad = ~(torch.isfinite(norms) & (norms > 0)).squeeze(1)
    if bad.any():
        first = bad.nonzero().flatten()[:5].tolist()
        raise DataError(
            f"{int(bad.sum())} of {x.shape[0]} {name} have a zero, NaN or infinite representation (positions {first}); "
            f"extract in float32, or drop those rows"
        )
    unit: Tensor = x / norms
    return unit


def row_blocks(cost: GroundCost) -> Iterator[tuple[int, int]]:
    """Yields ``(start, stop)`` pairs that cover all rows in blocks of about ``BLOCK_ELEMENTS`` entries."""
    n, m = cost.shape
    step = max(1, BLOCK_ELEMENTS // m)
    for start in range(0, n, step):
        yield start, min(n, start + step)
