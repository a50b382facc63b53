"""From cells to the files that a comparison leaves: one line for each cell, and what the report draws besides."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sotune.artifacts import Table, write_json
from sotune.comparison.cells import Cell
from sotune.comparison.grid import DrawResults, Results
from sotune.errors import SotuneError
from sotune.evaluation.prompts import load_prompts
from sotune.settings import RunConfig
from sotune.weights.separation import auroc

DEFAULT: str = RunConfig.model_fields["method"].default


def write_results(folder: Path, results: Results, *, settings: Mapping[str, Any], safe_to_show: bool) -> list[Path]:
    """Writes compare.json and compare.parquet (a line for each cell) and details.json (what the report draws besides).

    Raises:
        SotuneError: No cell was measured.
    """
    cells = [cell for draw in results.draws for cell in draw.cells.values()]
    if not cells:
        raise SotuneError(f"no cell could be measured: {results.failures[0].error}")
    write_json(folder / "compare.json", [cell.row for cell in cells])
    details: dict[str, Any] = {
        "kept": _kept(results),
        "examples": _examples(results.draws[0]),
        "settings": dict(settings),
        "safe_to_show": safe_to_show,
        "failures": [asdict(failure) for failure in results.failures],
        **_weights(results.draws[0]),
    }
    write_json(folder / "details.json", details)
    _write_table(folder / "compare.parquet", cells)
    return [folder / "compare.json", folder / "compare.parquet"]


def _kept(results: Results) -> dict[str, dict[str, float]]:
    """Returns the share of refusal and of harmful rows that each method keeps, means over draws."""
    shares: dict[str, dict[str, list[float]]] = {}
    for draw in results.draws:
        for method, cell in draw.cells.items():
            for kind in ("refusal", "harmful"):
                if kind in cell.kept:
                    shares.setdefault(method, {}).setdefault(f"{kind}_rows_kept", []).append(cell.kept[kind])
    return {method: {name: statistics.fmean(each) for name, each in by.items()} for method, by in shares.items()}


def _examples(draw: DrawResults) -> list[dict[str, str]]:
    prompts = {prompt.id: prompt for prompt in load_prompts(Path(draw.draw.paths["eval_prompts"]))}
    first = next(iter(draw.cells.values()), None)
    return [
        {
            "prompt": prompts[id].messages[-1].content,
            "kind": prompts[id].kind,
            **{method: cell.examples[id] for method, cell in draw.cells.items()},
        }
        for id in (first.examples if first else ())
    ]


def _weights(draw: DrawResults) -> dict[str, Any]:
    """Returns the weights of the default method, or of another of ours where it is not among those compared."""
    ours = [name for name, cell in draw.cells.items() if cell.row["kind"] == "ours" and cell.relative_weights]
    chosen = DEFAULT if DEFAULT in ours else next(iter(ours), None)
    if chosen is None:
        return {}
    return {"weights": {**draw.cells[chosen].relative_weights, "method": chosen, "seed": draw.draw.seed}}


def _write_table(path: Path, cells: Sequence[Cell]) -> None:
    """Writes the rows of compare.json with what each cell kept and how its weights tell harmful rows from others."""
    rows = [{**cell.row, **_selection_figures(cell)} for cell in cells]
    values = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    Table(path.name, {name: _kind(each) for name, each in values.items()}, verb="compare").write(path.parent, values)


def _kind(values: Sequence[Any]) -> str:
    """Returns the type of a column of a line for each cell; a cell may lack any of them."""
    found = {type(value) for value in values} - {type(None)}
    return "string?" if found == {str} else "int64?" if found == {int} else "float64?"


def _selection_figures(cell: Cell) -> dict[str, float]:
    figures = {f"kept_{kind}": share for kind, share in cell.kept.items()}
    harmful, other = (cell.relative_weights.get(group) or [] for group in ("harmful", "other"))
    if harmful and other:
        figures |= {"weight_harmful": statistics.fmean(harmful), "weight_other": statistics.fmean(other)}
        figures["weight_auroc"] = auroc(*(torch.tensor(side, dtype=torch.float64) for side in (other, harmful)))
    return figures


def summarize(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the mean of some figures over seeds and data sets, by method; a figure that a row lacks is left out."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return {
        method: {name: statistics.fmean(row[name] for row in some) for name in names if all(name in r for r in some)}
        for method, some in by_method.items()
    }
