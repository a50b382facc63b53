"""Methods side by side under one budget."""

from sotune.comparison.cells import Cell
from sotune.comparison.draw import Draw, check_disjoint
from sotune.comparison.grid import Comparison, Failure, PlannedCell, Results
from sotune.comparison.results import summarize, write_results
from sotune.comparison.variant import BASE, References, Variant

__all__ = [
    "BASE",
    "Cell",
    "Comparison",
    "Draw",
    "Failure",
    "PlannedCell",
    "References",
    "Results",
    "Variant",
    "check_disjoint",
    "summarize",
    "write_results",
]
