"""Where weights are solved: a device that computes in float64, with memory for the kernels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.transport import Rows, RowView
from sotune.weights.ground_cost import GroundCost
from sotune.weights.solution import LearnedWeights
from sotune.weights.streaming import memory_budget

_WITH_FLOAT64 = ("cpu", "cuda", "xpu")
"""Devices that compute in float64, which potentials and sums are in; MPS and others do not."""
_CPU = torch.device("cpu")


def choose_device(wanted: str, shape: tuple[int, int], rows: Rows) -> torch.device:
    """Returns where to solve.

    Kernels that fit into RAM and not onto the wanted device stay on the CPU: solved in memory they are exact, and
    streamed ones are not.

    >>> str(choose_device("mps", (2, 3), torch.eye(2)))
    'cpu'

    Args:
        wanted: ``auto`` for where the rows lie, or the name of a device.
        shape: How many rows and columns the kernels have together.
        rows: The rows.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        device = rows.device if wanted == "auto" else torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"solver_device must be auto, cpu, cuda or cuda:N. Got {wanted!r}") from None
    if device.type not in _WITH_FLOAT64:
        return _CPU
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"solver_device {wanted!r} is not available on this machine; use 'auto' or 'cpu'")
    needed = math.prod(shape) * rows.dtype.itemsize
    if device.type != "cpu" and rows.device.type == "cpu" and memory_budget(device) < needed <= memory_budget(_CPU):
        return _CPU
    return device


def place_rows(rows: Rows, device: torch.device) -> Rows:
    """Returns rows that are handed out on a device, slice by slice: mapped files stay mapped."""
    return rows if rows.device == device else _PlacedRows(rows, device)


class _PlacedRows(RowView):
    """Rows of another device."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        super().__init__(rows)
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where they are handed out."""
        return self._device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows."""
        wanted = rows.to(self._rows.device) if isinstance(rows, Tensor) else rows
        return self._rows[wanted].to(self._device)


def place_cost(cost: GroundCost, device: torch.device) -> GroundCost:
    """Returns a ground cost with what it learned on a device."""
    state = cost.state()
    moved = {
        name: value.to(device) for name, value in state.items() if isinstance(value, Tensor) and value.device != device
    }
    return type(cost).restore({**state, **moved}) if moved else cost


def place_learned(learned: LearnedWeights, device: torch.device) -> LearnedWeights:
    """Returns what was learned on a device; on the CPU where that has no float64, which weights are in."""
    home = device if device.type in _WITH_FLOAT64 else _CPU
    return replace(
        learned,
        weights=learned.weights.to(home),
        references=tuple(
            replace(one, **{name: getattr(one, name).to(home) for name in ("b", "f", "g", "mean_cost")})
            for one in learned.references
        ),
        cost=None if learned.cost is None else place_cost(learned.cost, home),
    )
