"""Methods side by side under one budget."""

from sotune.comparison.measure import Bench, Budget, Cell, Draw
from sotune.comparison.results import summarize, write_results
from sotune.comparison.run import Comparison, PlannedCell, check_disjoint
from sotune.comparison.variants import BASE, References, Variant

__all__ = [
    "BASE",
    "Bench",
    "Budget",
    "Cell",
    "Comparison",
    "Draw",
    "PlannedCell",
    "References",
    "Variant",
    "check_disjoint",
    "summarize",
    "write_results",
]
