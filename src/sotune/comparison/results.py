"""From cells to the files that a comparison leaves: one line for each cell, and what the report draws besides."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import write_json
from sotune.comparison.measure import Cell, Draw
from sotune.comparison.variants import BASE


def write_results(
    folder: Path,
    results: Sequence[tuple[Draw, Mapping[str, Cell]]],
    *,
    settings: Mapping[str, Any],
    safe_to_show: bool,
) -> None:
    """Writes compare.json (one line for each cell) and details.json (what the report draws besides).

    Raises:
        SotuneError: A figure is missing.
    """
    write_json(folder / "compare.json", [cell.row for _, cells in results for cell in cells.values()])
    draw, cells = results[0]
    kept = {
        method: {
            f"{kind}_rows_kept": statistics.fmean(cells[method].kept[kind] for _, cells in results)
            for kind in ("refusal", "harmful")
            if kind in cells[method].kept
        }
        for method in cells
        if method != BASE
    }
    prompts = {prompt.id: prompt for prompt in draw.prompts}
    first = next(iter(cells.values()))
    examples = [
        {
            "prompt": prompts[id].messages[-1].content,
            "kind": prompts[id].kind,
            **{method: cell.examples[id] for method, cell in cells.items()},
        }
        for id in first.examples
    ]
    details: dict[str, Any] = {
        "kept": kept,
        "examples": examples,
        "settings": dict(settings),
        "safe_to_show": safe_to_show,
    }
    if "sot" in cells:
        details["weights"] = {**cells["sot"].relative_weights, "seed": draw.seed}
    write_json(folder / "details.json", details)


def summarize(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the mean of some figures over seeds and data sets, by method."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return {
        method: {name: statistics.fmean(row[name] for row in some) for name in names}
        for method, some in by_method.items()
    }
