"""Methods side by side under one budget."""

from sotune.comparison.measure import BASE, Bench, Budget, Cell, Draw
from sotune.comparison.results import summarize, write_results
from sotune.comparison.run import Comparison

__all__ = ["BASE", "Bench", "Budget", "Cell", "Comparison", "Draw", "summarize", "write_results"]
