"""Turns the cells into tables: ``summarize.py cells.jsonl OUT`` writes ``table.md`` and ``table.csv``.

Means over seeds with Student's 95 % intervals, where there are at least two. If ``judge.json`` lies beside the cells,
harm is also shown corrected for the classifier's known error (Rogan and Gladen); that interval is over prompts and over
the labels that the error is known from.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grid import NAMES

from sotune.errors import DataError
from sotune.evaluation.calibration import correct_rate
from sotune.evaluation.estimates import Estimate, estimate_rate
from sotune.evaluation.replication import mean_interval

FIGURES = {
    "harm": "harm",  # by classifier on unseen kinds, or else by phrases
    "corrected": "harm, corrected",
    "answered_unseen": "not refused (phrases)",
    "harmful_seen": "harm, seen kinds",
    "over_refusal": "over-refusal",
    "sum": "harm + over-refusal",
    "utility": "utility",
    "coherence": "coherence",
    "gap": "gap, nats",
    "drift_harmful": "drift, harmful",
    "drift_lookalike": "drift, look-alikes",
    "kept_harmful": "harmful kept",
    "kept_refusal": "safe answers kept",
    "seconds": "seconds",
}
N_ASKED = 160  # harmful prompts of unseen kinds, the same for all seeds
Row = dict[str, Any]


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [completed(json.loads(line)) for line in source.read_text(encoding="utf-8").splitlines()]
    FIGURES.update({name: name for row in rows for name in row if name.startswith("answered ")})
    judge = source.parent / "judge.json"
    error = json.loads(judge.read_text(encoding="utf-8"))["overall"] if judge.exists() else None
    rows.sort(key=lambda row: NAMES.index(row["method"]) if row["method"] in NAMES else len(NAMES))
    lines = [summary(condition, some) for condition, some in conditions(rows).items()]
    lines += [summary(("all", "", method), some) for method, some in everywhere(rows).items()]
    if error is not None:
        try:
            for line in lines:
                line |= corrected(line, error)
        except DataError as too_poor:
            print(f"harm is not corrected: {too_poor}")
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        names = ["dataset", "harmful_fraction", "method", "n_cells"]
        names += [
            f"{name}{part}" for name in FIGURES if any(name in line for line in lines) for part in ("", "_low", "_high")
        ]
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(lines)
    (out / "table.md").write_text(markdown(lines), encoding="utf-8")


def completed(row: Row) -> Row:
    """Adds what follows from a cell's figures."""
    harm = row.get("harmful_unseen", row.get("answered_unseen"))
    known = harm is not None and "over_refusal" in row
    return {**row, "harm": harm, **({"sum": harm + row["over_refusal"]} if known else {})}


def conditions(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Returns the cells of each method under each condition."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], f"{row['harmful_fraction']:g}", row["method"]].append(row)
    return groups


def everywhere(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns, for each method, one row a seed: means over the draws that all methods of most conditions have."""
    draws: dict[tuple[str, float, int], set[str]] = defaultdict(set)
    for row in rows:
        draws[row["dataset"], row["harmful_fraction"], row["seed"]].add(row["method"])
    most = max((len(methods) for methods in draws.values()), default=0)
    whole = {draw for draw, methods in draws.items() if len(methods) == most}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if (row["dataset"], row["harmful_fraction"], row["seed"]) in whole:
            groups[row["method"]].append(row)
    return {
        method: [_mean(some, seed) for seed in sorted({r["seed"] for r in some})] for method, some in groups.items()
    }


def _mean(rows: Sequence[Row], seed: int) -> Row:
    own = [row for row in rows if row["seed"] == seed]
    known = [name for name in FIGURES if all(row.get(name) is not None for row in own)]
    return {name: statistics.fmean(row[name] for row in own) for name in known}


def summary(condition: tuple[str, str, str], rows: Sequence[Row]) -> Row:
    """Returns means with their intervals."""
    line: Row = dict(zip(("dataset", "harmful_fraction", "method"), condition, strict=True))
    line["n_cells"] = len(rows)
    for name in FIGURES:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            line[name] = round(statistics.fmean(values), 4)
        if len(values) > 1 and name != "seconds":
            found = mean_interval(values, confidence=0.95)
            line |= {f"{name}_low": round(found.low, 4), f"{name}_high": round(found.high, 4)}
    return line


def corrected(line: Row, error: Row) -> Row:
    """Returns the harm of a line without the classifier's error."""
    if "harm" not in line:
        return {}
    sensitivity, specificity = (Estimate(**error[name]) for name in ("recall", "specificity"))
    n_harmful = round(line["harm"] * N_ASKED)
    seen = estimate_rate([1.0] * n_harmful + [0.0] * (N_ASKED - n_harmful))
    found = correct_rate(seen, sensitivity, specificity, confidence=0.95)
    return {
        "corrected": round(found.value, 4),
        "corrected_low": round(found.low, 4),
        "corrected_high": round(found.high, 4),
    }


def markdown(lines: Sequence[Row]) -> str:
    """Returns a table for each condition."""
    text = []
    for condition in sorted({(line["dataset"], line["harmful_fraction"]) for line in lines}):
        own = [line for line in lines if (line["dataset"], line["harmful_fraction"]) == condition]
        text.append(
            f"## {condition[0]}" + (f", harmful share {condition[1]}" if condition[1] else " conditions") + "\n"
        )
        shown = [name for name in FIGURES if any(name in line for line in own)]
        text.append("| method | n | " + " | ".join(FIGURES[name] for name in shown) + " |")
        text.append("|---|---|" + "---|" * len(shown))
        for line in own:
            text.append(
                f"| {line['method']} | {line['n_cells']} | " + " | ".join(_shown(line, n) for n in shown) + " |"
            )
        text.append("")
    return "\n".join(text)


def _shown(line: Row, name: str) -> str:
    if name not in line:
        return ""
    if name == "seconds":
        return f"{line[name]:.0f}"
    low, high = line.get(f"{name}_low"), line.get(f"{name}_high")
    return f"{line[name]:.3f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else "")


if __name__ == "__main__":
    main()
