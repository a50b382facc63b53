"""Entropic optimal transport between weighted rows, on tensors alone: it knows no records and no files.

One convention holds everywhere: ``plan = a·b·exp((f + g − cost) / epsilon)``, with ``a`` and ``b`` the marginals
(each sums to 1) and ``f``, ``g`` the dual potentials in units of cost.
"""

from sotune.transport.cost import COSTS, CosineCost, DenseCost, GroundCost
from sotune.transport.sinkhorn import (
    OTProblem,
    SinkhornResult,
    SinkhornSolver,
    column_error,
    expected_cost,
    extend_potential,
    regularized_cost,
    sinkhorn,
    transport_plan,
)

__all__ = [
    "COSTS",
    "CosineCost",
    "DenseCost",
    "GroundCost",
    "OTProblem",
    "SinkhornResult",
    "SinkhornSolver",
    "column_error",
    "expected_cost",
    "extend_potential",
    "regularized_cost",
    "sinkhorn",
    "transport_plan",
]
