"""Ground costs that hand out blocks of rows, so that the full ``[n, m]`` matrix need never exist."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sotune.errors import DataError

BLOCK_ELEMENTS = 1 << 20
"""How many cost entries one block holds on a CPU: 4 MB in float32, which stays in the cache."""
CUDA_BLOCK_ELEMENTS = 1 << 26
"""The same on a GPU, where small blocks cost more in launches than they save."""


class Rows(Protocol):
    """Representations ``[n, d]`` that are read by slices: a tensor, or files that are mapped and not loaded."""

    @property
    def shape(self) -> torch.Size:
        """The pair ``(n, d)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the rows that are handed out."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they are handed out."""
        ...

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows, by a slice or by their positions."""
        ...


class RowView:
    """Other rows as they are; whoever hands out something else says what.

    Args:
        rows: The other rows.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    @property
    def shape(self) -> torch.Size:
        """The pair ``(n, d)``."""
        return self._rows.shape

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the rows that are handed out."""
        return self._rows.dtype

    @property
    def device(self) -> torch.device:
        """Where they are handed out."""
        return self._rows.device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows."""
        return self._rows[rows]


class CostMatrix(Protocol):
    """The ground cost between ``n`` rows and ``m`` columns, read in blocks of rows."""

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

    @property
    def upper_bound(self) -> float:
        """No entry is larger; infinite where nothing is known."""
        ...

    @property
    def rounding(self) -> float:
        """By how much the entries of two equal rows may differ: a product's last bits depend on the row's place."""
        ...

    def affine(self, start: int, stop: int, shift: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
        """Returns ``shift_j − factor·C_ij``, ``[stop - start, m]``, for ``shift`` ``[m]``: fresh, or in ``out``."""
        ...

    def take(self, positions: Tensor) -> CostMatrix:
        """Returns the cost between some of the rows and all columns."""
        ...


class DenseCost:
    """A cost matrix that exists already.

    Args:
        matrix: Ground cost, ``[n, m]``, finite.

    Raises:
        DataError: It is no matrix, is empty, or has entries that are not finite.
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

    @property
    def upper_bound(self) -> float:
        """Nothing is known without a look at all entries."""
        return math.inf

    @property
    def rounding(self) -> float:
        """That of sums over the columns: the entries themselves are given."""
        return float(self._matrix.abs().max()) * _relative_rounding(self.dtype, self.shape[1])

    def affine(self, start: int, stop: int, shift: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
        """Returns ``shift_j − factor·C_ij``, ``[stop - start, m]``, for ``shift`` ``[m]``: fresh, or in ``out``."""
        return torch.add(shift, self._matrix[start:stop], alpha=-factor, out=out)

    def take(self, positions: Tensor) -> DenseCost:
        """Returns the cost between some of the rows and all columns."""
        return DenseCost(self._matrix[positions])


class CosineCost:
    """Cosine distance ``1 − cos(x_i, y_j)``, in [0, 2]: the paper's ground cost (§4.1).

    >>> CosineCost(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0]])).rows(0, 2)
    tensor([[0.],
            [1.]])

    The rows are neither copied nor scaled in place: only their lengths are kept, so they may lie in mapped files.

    Args:
        x: Rows, ``[n, d]``.
        y: Columns, ``[m, d]``.

    Raises:
        DataError: The widths differ, or a row is zero or not finite: it has no direction.
    """

    def __init__(self, x: Rows, y: Tensor) -> None:
        if len(x.shape) != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise DataError(
                f"representations must be [n, d] and [m, d] of one width d. "
                f"Got {tuple(x.shape)} and {tuple(y.shape)}; were they made by the same encoder?"
            )
        self._x, self._scale = x, _inverse_norms(x, name="rows")
        self._y = normalize_rows(y, name="columns")

    @property
    def shape(self) -> tuple[int, int]:
        """The pair ``(n, m)``."""
        return self._x.shape[0], self._y.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the entries."""
        return self._y.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries are computed."""
        return self._y.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns a fresh ``[stop - start, m]`` block."""
        unit = self._x[start:stop] * self._scale[start:stop, None]
        return torch.addmm(unit.new_ones(1), unit, self._y.T, alpha=-1).clamp_(min=0.0)

    @property
    def upper_bound(self) -> float:
        """Opposite directions."""
        return 2.0

    @property
    def rounding(self) -> float:
        """That of products over the width."""
        return self.upper_bound * _relative_rounding(self.dtype, self._y.shape[1])

    def affine(self, start: int, stop: int, shift: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
        """Returns ``shift_j − factor·C_ij``, ``[stop - start, m]``, for ``shift`` ``[m]``: fresh, or in ``out``.

        One matrix product and nothing else: the cost itself is never written.
        """
        unit = self._x[start:stop] * self._scale[start:stop, None]
        return torch.addmm(shift - factor, unit, self._y.T, alpha=factor, out=out)

    def take(self, positions: Tensor) -> CosineCost:
        """Returns the cost between some of the rows and all columns."""
        return CosineCost(self._x[positions], self._y)


def block_slices(n: int, width: int, device: torch.device, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yields pairs that cover rows ``first`` to ``n`` in blocks of ``width`` columns that suit the device."""
    elements = CUDA_BLOCK_ELEMENTS if device.type == "cuda" else BLOCK_ELEMENTS
    step = max(1, elements // width)
    for start in range(first, n, step):
        yield start, min(n, start + step)


def row_blocks(cost: CostMatrix) -> Iterator[tuple[int, int]]:
    """Yields ``(start, stop)`` pairs that cover all rows of one cost."""
    n, m = cost.shape
    return block_slices(n, m, cost.device)


def _relative_rounding(dtype: torch.dtype, n_terms: int) -> float:
    # Errors of a sum's terms are of either sign, so that they grow with the root of the number of terms.
    return float(torch.finfo(dtype).eps) * math.sqrt(n_terms)


def normalize_rows(x: Tensor, *, name: str = "x") -> Tensor:
    """Scales each row to unit length.

    >>> normalize_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])

    Args:
        x: Rows, ``[n, d]``.
        name: What an error calls them.

    Raises:
        DataError: A row is zero or not finite.
    """
    return x * _inverse_norms(x, name=name)[:, None]


def _inverse_norms(x: Rows, *, name: str) -> Tensor:
    parts = [x[start:stop].norm(dim=1) for start, stop in block_slices(x.shape[0], x.shape[1], x.device)]
    norms = torch.cat(parts)
    bad = ~(torch.isfinite(norms) & (norms > 0))
    if bad.any():
        first = bad.nonzero().flatten()[:5].tolist()
        raise DataError(
            f"{int(bad.sum())} of {x.shape[0]} {name} have a zero, NaN or infinite representation (positions {first}); "
            f"extract in float32, or drop those rows"
        )
    return norms.reciprocal()
