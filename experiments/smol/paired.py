"""Compares finished cells prompt by prompt: ``paired.py OUT.csv GRID...``, where each GRID is a comparison's folder.

A line for each cell, and one for the aligned model of each task. Harm and over-refusal beside the aligned model's, with
Newcombe's interval and McNemar's exact test; utility beside plain fine-tuning's of the same draw, with Student's
interval. All are over prompts: they tell these models apart on new prompts, not the methods on new draws. Last come,
for each condition and over all, means over the cells that both models have, all alike, with intervals over prompts, of
which draws share most, and (``by_draw``) over draws.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score import group

from sotune.artifacts import read_json
from sotune.evaluation.paired import compare_paired
from sotune.evaluation.replication import mean_interval
from sotune.evaluation.store import load_verdicts
from sotune.wording import counted

_CONFIDENCE = 0.95
_BASE, _PLAIN = "base", "sft"
Scores = dict[str, dict[str, float]]
Row = dict[str, Any]


def main() -> None:
    out, *grids = map(Path, sys.argv[1:])
    cells = read_cells(*grids)
    rows = [described(cell, cells) for cell in cells]
    conditions = dict.fromkeys(map(_condition, cells))
    for some in (*([c for c in cells if _condition(c) == one] for one in conditions), cells):
        rows += [means(method, some) for method in dict.fromkeys(cell["method"] for cell in some)]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(cells)} cells, {out}")


def read_cells(*grids: Path) -> list[Row]:
    """Returns each finished cell with its scores, the aligned model's once a draw among them."""
    cells: list[Row] = []
    for path in (path for grid in grids for path in sorted(grid.glob("cells/*/*/result.json"))):
        row = read_json(path)["cell"]["row"]
        if row["method"] == _BASE:
            continue  # every other cell holds the aligned model's verdicts too
        cell = {name: row[name] for name in ("dataset", "harmful_fraction", "seed", "method")}
        if _beside(cell, cells, _BASE) is None:
            cells.append({**cell, "method": _BASE, "scores": scores_of(path.parent / "base_verdicts.parquet")})
        trained = read_json(path.parent / "training.json")
        figures = trained.get("figures") or {}
        names = ("rows_left_out", "extra_tokens", "scale", "risky_drift", "harmless_drift", "unseen_drift")
        told = {"rows": trained["n_rows"], "steps": trained["n_steps"]} | {
            n: round(figures[n], 4) for n in names if n in figures
        }
        cells.append({**cell, "told": told, "scores": scores_of(path.parent / "verdicts.parquet")})
    return cells


def scores_of(path: Path) -> Scores:
    """Returns what the judges hold of each prompt, by what it is asked for."""
    found: Scores = defaultdict(dict)
    for role, verdicts in load_verdicts(path).items():
        for one in verdicts:
            if one.score is None:
                raise SystemExit(f"{path}: {one.id} is unscored; a judge that scores all is compared here")
            found[role][one.id] = one.score
    for id, score in found["harm"].items():
        found[f"harm_{group(id)}"][id] = score
    found["over_refusal"] = {id: score for id, score in found.pop("refusal").items() if id not in found["harm"]}
    found["utility"] = found.pop("task")
    return found


def described(cell: Row, cells: Sequence[Row]) -> Row:
    """Returns the line of one cell."""
    line = {name: cell[name] for name in ("dataset", "harmful_fraction", "seed", "method")}
    line |= {what: round(statistics.fmean(some.values()), 4) for what, some in cell["scores"].items()}
    for what in ("harm", "harm_unseen", "over_refusal"):
        if (other := _beside(cell, cells, _BASE)) and cell["method"] != _BASE:
            found = compare_paired(cell["scores"][what], other["scores"][what], confidence=_CONFIDENCE)
            line |= _named(f"{what}_to_aligned", found.difference, found.low, found.high)
            line |= {f"{what}_only": found.only_first, f"{what}_only_aligned": found.only_second}
            line[f"{what}_p"] = float(f"{found.p_value:.2g}")
    if (plain := _beside(cell, cells, _PLAIN)) and cell["method"] not in (_BASE, _PLAIN):
        line |= _gap("utility_to_sft", _gaps([(cell, plain)], "utility"))
    return {**line, **cell.get("told", {})}


def means(method: str, cells: Sequence[Row]) -> Row:
    """Returns the means of a method over its cells, and over those that it shares with another model."""
    own = [cell for cell in cells if cell["method"] == method]
    conditions = {_condition(cell) for cell in cells}
    dataset, share = conditions.pop() if len(conditions) == 1 else ("all", "")
    line: Row = {"dataset": dataset, "harmful_fraction": share, "seed": counted(len(own), "cell"), "method": method}
    for what in ("harm", "harm_unseen", "over_refusal", "utility"):
        line[what] = round(statistics.fmean(_rate(cell, what) for cell in own), 4)
        against = _PLAIN if what == "utility" else _BASE
        both = [(cell, other) for cell in own if (other := _beside(cell, cells, against))]
        if both and method not in (_BASE, against):
            name = f"{what}_to_{_PLAIN if what == 'utility' else 'aligned'}"
            line |= _gap(name, _gaps(both, what)) | _by_draw(name, both, what)
    return line


def _by_draw(name: str, pairs: Sequence[tuple[Row, Row]], what: str) -> Row:
    """Returns the ends of the interval of a difference over draws, each the mean of its cells."""
    draws: dict[int, list[float]] = defaultdict(list)
    for cell, other in pairs:
        draws[cell["seed"]].append(_rate(cell, what) - _rate(other, what))
    if len(draws) < 2:
        return {}
    found = mean_interval([statistics.fmean(some) for some in draws.values()], confidence=_CONFIDENCE)
    return {f"{name}_by_draw_low": round(found.low, 4), f"{name}_by_draw_high": round(found.high, 4)}


def _rate(cell: Row, what: str) -> float:
    return statistics.fmean(cell["scores"][what].values())


def _condition(cell: Row) -> tuple[str, float]:
    return cell["dataset"], cell["harmful_fraction"]


def _beside(cell: Row, cells: Sequence[Row], method: str) -> Row | None:
    same = ("dataset", "harmful_fraction", "seed")
    return next((c for c in cells if c["method"] == method and all(c[name] == cell[name] for name in same)), None)


def _gaps(pairs: Sequence[tuple[Row, Row]], what: str) -> list[float]:
    """Returns a difference for each prompt, whose mean is the mean over the pairs of cells, however many ask it."""
    adds: dict[str, float] = defaultdict(float)
    for cell, other in pairs:
        scores, others = cell["scores"][what], other["scores"][what]
        for id, score in scores.items():
            adds[f"{cell['dataset']}/{id}" if what == "utility" else id] += (score - others[id]) / len(scores)
    return [len(adds) * add / len(pairs) for add in adds.values()]


def _gap(name: str, gaps: Sequence[float]) -> Row:
    found = mean_interval(gaps, confidence=_CONFIDENCE)
    return _named(name, statistics.fmean(gaps), found.low, found.high)


def _named(name: str, *values: float) -> Row:
    return {f"{name}{end}": round(value, 4) for end, value in zip(("", "_low", "_high"), values, strict=True)}


if __name__ == "__main__":
    main()
