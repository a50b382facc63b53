"""Turns finished comparisons into the small tables of ``results/`` and the page ``docs/results.md``.

``python experiments/render.py RUNS`` reads ``RUNS/<name>/compare.parquet`` for each configuration here that has one,
writes ``results/<name>.csv`` (a line for each data set, harmful share and method: means over seeds with the ends of
their 95 % intervals), and then fills ``results.md.in``. Without RUNS it only fills the page from the tables there are.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from sotune.artifacts import write_text
from sotune.evaluation.replication import mean_interval

HERE = Path(__file__).parent
TABLES, TEMPLATE, PAGE = HERE / "results", HERE / "results.md.in", HERE.parent / "docs" / "results.md"
UNIT = ("dataset", "harmful_fraction", "method")
METRICS = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")
BOTH = "both_errors"  # harm plus over-refusal: what a method that only trades one for the other does not lower
TITLES = {BOTH: "harm + over-refusal", "over_refusal": "over-refusal"}
MEANS = ("kept_harmful", "kept_refusal", "weight_harmful", "weight_other", "weight_auroc", "seconds", "peak_bytes")
NOT_RUN = "*Not run yet.*"
LEVEL = 0.005  # of Avg; closer means are called level

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="?", help="folder that holds the comparisons, each under its name")
    arguments = parser.parse_args()
    if arguments.runs is not None:
        for config in sorted(HERE.glob("*.yaml")):
            finished = arguments.runs / config.stem / "compare.parquet"
            if finished.exists():
                write_summary(finished, TABLES / f"{config.stem}.csv")
    write_text(PAGE, fill(TEMPLATE.read_text(encoding="utf-8")))


def write_summary(source: Path, target: Path) -> None:
    """Writes means over seeds of a comparison's cells."""
    columns = pq.read_table(source).to_pydict()
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, unit in enumerate(zip(*(columns[name] for name in UNIT), strict=True)):
        groups.setdefault(unit, []).append(index)
    lines = []
    for unit, members in groups.items():
        line: dict[str, object] = {**dict(zip(UNIT, unit, strict=True)), "n_seeds": len(members)}
        for name in (*METRICS, *MEANS):
            values = [v for i in members if (v := columns.get(name, [None] * (i + 1))[i]) is not None]
            if not values:
                continue
            line[name] = shown(statistics.fmean(values))
            if name in METRICS and len(values) > 1:
                found = mean_interval(values, confidence=0.95)
                line |= {f"{name}_low": shown(max(0, found.low)), f"{name}_high": shown(min(1, found.high))}
        lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    target.parent.mkdir(exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def fill(template: str) -> str:
    """Replaces each ``{{NAME ARGUMENTS}}`` by what the table of that experiment says."""

    def replaced(found: re.Match[str]) -> str:
        name, experiment, *arguments = found[1].split()
        path = TABLES / f"{experiment}.csv"
        if not path.exists():
            return NOT_RUN
        with path.open(newline="", encoding="utf-8") as file:
            return FILLERS[name]([with_both(row) for row in csv.DictReader(file)], arguments)

    return re.sub(r"\{\{([^{}]+)\}\}", replaced, template)


def with_both(row: Row) -> Row:
    """Returns the row with its harmful rate and over-refusal added up, where it has both."""
    harm, refused = row.get("harmful_rate"), row.get("over_refusal")
    return {**row, BOTH: shown(float(harm) + float(refused))} if harm and refused else row


def methods_by_data(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """A line for each method: for each data set the named figures, then the mean Avg, and what Avg does not see."""
    data = list(dict.fromkeys(row["dataset"] for row in rows))
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[row["dataset"]] = row
    last = [name for name in ("over_refusal", BOTH) if any(name in row for row in rows)]
    lines = []
    for method, by_data in found.items():
        cells = [" / ".join(figure(by_data[d].get(m)) for m in metrics) if d in by_data else "" for d in data]
        averages = [statistics.fmean(float(row[name]) for row in by_data.values()) for name in ("avg", *last)]
        lines.append([method, *cells, *(figure(str(mean)) for mean in averages)])
    return table(["method", *data, "mean Avg", *(f"mean {title(name)}" for name in last)], lines)


def means(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """A line for each method: the named figures, means over data sets, the largest of the last one first."""
    by_metric = [mean_by_method(rows, name) for name in metrics]
    ordered = sorted(by_metric[-1], key=lambda method: -by_metric[-1][method])
    return table(
        ["method", *map(title, metrics)],
        [[method, *(figure(str(by[method])) for by in by_metric)] for method in ordered],
    )


def plain(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The named columns as they are, rates to three decimals."""
    return table(list(names), [[row[n] if n in UNIT else figure(row.get(n)) for n in names] for row in rows])


def curve(rows: Sequence[Row], arguments: Sequence[str]) -> str:
    """A line for each value of a setting, or of the harmful share; a column for each method; means over data sets."""
    metric = arguments[0]
    by_share = len({row["harmful_fraction"] for row in rows}) > 1
    found: dict[str, dict[str, list[float]]] = {}
    methods: dict[str, None] = {}
    for row in rows:
        if not row.get(metric):
            continue
        method, _, setting = row["method"].partition(" ")
        place = setting or (f"harmful_fraction={row['harmful_fraction']}" if by_share else "as it is")
        methods[method] = None
        found.setdefault(place, {}).setdefault(method, []).append(float(row[metric]))
    lines = [
        [place.replace("=", " = "), *(figure(str(statistics.fmean(by[m]))) if m in by else "" for m in methods)]
        for place, by in found.items()
    ]
    return table([title(metric), *methods], lines)


def order(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Says of each neighboring pair whether the first has the better mean Avg, as it has in the paper."""
    avg = mean_by_method(rows, "avg")
    lacking = [method for method in methods if method not in avg]
    if lacking:
        return f"No figures for {', '.join(lacking)}."

    def said(ahead: float) -> str:
        if abs(ahead) < LEVEL:
            return "level"
        return "as in the paper" if ahead > 0 else "**not as in the paper**"

    pairs = [
        f"{a} {figure(str(avg[a]))} against {b} {figure(str(avg[b]))}: {said(avg[a] - avg[b])}"
        for a, b in zip(methods, methods[1:], strict=False)
    ]
    return "; ".join(pairs) + "."


def best(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Says on which data sets a method has the best Avg of all that do not know the labels."""
    (ours,) = methods
    lines = []
    for data in dict.fromkeys(row["dataset"] for row in rows):
        competing = {
            row["method"]: float(row["avg"])
            for row in rows
            if row["dataset"] == data and row["method"] not in ("base", "oracle", "oracle_k")
        }
        first = max(competing, key=lambda method: competing[method])
        mine = figure(str(competing[ours]))
        text = "the best" if first == ours else f"behind {first} ({figure(str(competing[first]))})"
        lines.append(f"- {data}: {ours} {mine}, {text}")
    return "\n".join(lines)


def mean_by_method(rows: Sequence[Row], metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["method"], []).append(float(row[metric]))
    return {method: statistics.fmean(each) for method, each in values.items()}


def title(metric: str) -> str:
    return TITLES.get(metric, metric)


def figure(text: str | None) -> str:
    if not text:
        return ""
    value = float(text)
    if math.isfinite(value) and abs(value) >= 1000:
        return f"{value / 1e6:,.0f} MB"
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    written = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return "\n".join([written[0], "|" + "---|" * len(head), *written[1:]])


FILLERS: Mapping[str, Callable[[Sequence[Row], Sequence[str]], str]] = {
    "methods": methods_by_data,
    "means": means,
    "columns": plain,
    "curve": curve,
    "order": order,
    "best": best,
}

if __name__ == "__main__":
    main()
