"""Entropic optimal transport between weighted rows, on tensors alone: it knows no records and no files.

One convention holds everywhere: ``plan = a·b·exp((f + g − cost) / epsilon)``, with ``a`` and ``b`` the marginals
(each sums to 1) and ``f``, ``g`` the dual potentials in units of cost.
"""

from sotune.transport.cost import CosineCost, CostMatrix, DenseCost, Rows, RowView
from sotune.transport.kernel import Kernel, join, move_all, part
from sotune.transport.row_shards import ALL_ROWS, AllRows, ProcessShards, Shards
from sotune.transport.sinkhorn import (
    OTProblem,
    SinkhornResult,
    SinkhornSolver,
    column_error,
    extend_potential,
    regularized_cost,
    sinkhorn,
    transport_plan,
)
from sotune.transport.sweep import Extrapolation, Sweep, row_mean_costs, sweep

__all__ = [
    "ALL_ROWS",
    "AllRows",
    "CosineCost",
    "DenseCost",
    "Extrapolation",
    "CostMatrix",
    "Kernel",
    "OTProblem",
    "ProcessShards",
    "RowView",
    "Rows",
    "Shards",
    "SinkhornResult",
    "SinkhornSolver",
    "Sweep",
    "column_error",
    "extend_potential",
    "join",
    "move_all",
    "part",
    "regularized_cost",
    "row_mean_costs",
    "sinkhorn",
    "sweep",
    "transport_plan",
]
