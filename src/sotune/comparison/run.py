"""Methods side by side: the same data, model, number of optimizer steps, prompts and judges for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sotune.comparison.measure import BASE, Bench, Budget, Cell, Draw
from sotune.errors import ConfigError
from sotune.pipeline import Monitor

if TYPE_CHECKING:
    from sotune.evaluation import Judge, JudgeRole


class Comparison:
    """Runs methods on draws under one budget.

    Args:
        methods: Names of methods, ``base`` among them or not.
        budget: What they share.
        judges: Role to judge.
        folder: Where cells and results go.
        monitor: Is told of progress.

    Raises:
        ConfigError: A method is unknown.
    """

    def __init__(
        self,
        methods: Sequence[str],
        budget: Budget,
        judges: Mapping[JudgeRole, Judge],
        *,
        folder: Path,
        monitor: Monitor,
    ) -> None:
        from sotune.methods import METHODS

        unknown = sorted(set(methods) - set(METHODS) - {BASE})
        if unknown:
            raise ConfigError(f"unknown methods {unknown}; known: {', '.join([BASE, *METHODS])}")
        self._methods, self._monitor = methods, monitor
        self._bench = Bench(budget, judges, folder=folder, monitor=monitor)

    def run(self, draws: Iterable[Draw]) -> list[tuple[Draw, dict[str, Cell]]]:
        """Does every cell that is not done; returns all, by draw and method."""
        results = []
        for draw in draws:
            cells = {}
            for method in self._methods:
                self._monitor.stage(f"{draw.name}: {method}", "running")
                cells[method] = self._bench.cell(draw, method)
            results.append((draw, cells))
        return results
