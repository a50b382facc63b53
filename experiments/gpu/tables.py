"""Turns the file of results into Markdown: python experiments/gpu/tables.py results.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    for make in (machine, checks, solver, extraction, training, table7, suite):
        if make.__name__ in results:
            print("\n".join([*make(results), ""]))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Returns a Markdown table."""
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def machine(results: dict[str, Any]) -> list[str]:
    """What it was measured on, and what became of each part."""
    facts = {k: v for k, v in results.get("machine", {}).get("facts", {}).items() if k not in ("ok", "took")}
    parts = results.get("parts", {})
    return [
        "# On a GPU",
        "",
        ", ".join(f"{name} {_text(value)}" for name, value in facts.items()) + ".",
        "",
        "Parts: " + ", ".join(f"{name}: {status}" for name, status in parts.items()) + ".",
        *(f"\n`{name}` failed: {_text(results[name]['failed']['error'])}" for name in parts if _failed(results, name)),
    ]


def _failed(results: dict[str, Any], name: str) -> bool:
    return "failed" in results.get(name, {})


def checks(results: dict[str, Any]) -> list[str]:
    """Which checks pass, and how far the results are from the CPU's."""
    found = results.get("checks", {})
    rows = [
        (name, entry["ok"], entry.get("relative_difference", entry.get("largest_difference")), _remark(entry))
        for name, entry in found.items()
        if isinstance(entry, dict) and "ok" in entry
    ]
    return ["## Correctness", "", *table(("check", "passes", "difference from the CPU", "remark"), rows)]


def _remark(entry: dict[str, Any]) -> str:
    if not entry["ok"]:
        return str(entry["error"])[-300:]
    return f"within 1e-4: {_text(entry['within_1e-4'])}" if "within_1e-4" in entry else ""


def solver(results: dict[str, Any]) -> list[str]:
    """Seconds of the solver by size and cost."""
    found = results.get("solver", {})
    rows = []
    for name, entry in found.items():
        if isinstance(entry, dict) and ("seconds" in entry or entry.get("ok") is False):
            cost, n, *rest = name.split("_")
            where = f"CPU, {entry.get('threads', '?')} threads" if rest else found.get("device")
            if not entry["ok"]:
                rows.append((cost, n, where, entry["error"][:200], *[None] * 5))
                continue
            rows.append(
                (
                    cost,
                    int(n),
                    where,
                    entry["seconds"]["median"],
                    entry.get("stretch_seconds"),
                    entry["converged"],
                    entry["stationarity"],
                    max(entry["column_errors"]),
                    entry.get("peak_gib"),
                )  # fmt: skip
            )
    head = (
        "cost", "n", "where", "seconds", "of them the stretch", "converged", "stationarity", "column error",
        "peak GiB above the data",
    )  # fmt: skip
    title = f"## Solver: {_text(found.get('n_reference'))} references, d = {_text(found.get('d'))}"
    return [title, "", *table(head, rows)]


def extraction(results: dict[str, Any]) -> list[str]:
    """Tokens a second of each way to encode."""
    found = results.get("extraction", {})
    contestants = found.get("contestants", {})
    floor = contestants.get("packed", {}).get("tokens_per_second")
    rows = [
        (name, c["tokens_per_second"], c["tokens_per_second"] / floor if floor else None, c.get("peak_gib"))
        for name, c in contestants.items()
    ]
    facts = ("n_rows", "tokens", "median_length", "longest", "layers", "dtype", "attention", "padding")
    return [
        "## Extraction",
        "",
        ", ".join(f"{name} {_text(found.get(name))}" for name in facts) + ".",
        "",
        *table(("way", "tokens a second", "of packed", "peak GiB above the weights"), rows),
        "",
        *(f"`{name}`: {_text(found.get(name))}\n" for name in ("agreement", "prepare", "all_readings")),
    ]


def training(results: dict[str, Any]) -> list[str]:
    """Tokens a second and peak memory of each trainer."""
    found = results.get("training", {})
    rows = [
        (
            case,
            name,
            t["tokens_per_second"]["median"],
            t["seconds_per_step"]["median"],
            t["computed_over_real_tokens"],
            t.get("peak_gib"),
        )  # fmt: skip
        for case, trainers in found.items()
        if isinstance(trainers, dict) and "ok" not in trainers
        for name, t in trainers.items()
        if "tokens_per_second" in t
    ]
    head = (
        "case",
        "trainer",
        "tokens a second",
        "seconds a step",
        "computed / real tokens",
        "peak GiB above the weights",
    )
    return [f"## Training, LoRA rank 16 on q and v, {found.get('layers')} layers", "", *table(head, rows)]


def table7(results: dict[str, Any]) -> list[str]:
    """The estimate."""
    found = results.get("table7", {}).get("estimate", {})
    rows = [(name, value) for name, value in found.items() if name not in ("ok", "took", "note")]
    return ["## Table 7's set-up, estimated", "", f"{found.get('note', '')}.", "", *table(("what", "value"), rows)]


def suite(results: dict[str, Any]) -> list[str]:
    """What the tests say."""
    lines = ["## Tests on the GPU", ""]
    for name, entry in results.get("suite", {}).items():
        if not isinstance(entry, dict) or "passed" not in entry:
            continue
        counted = f"{entry['passed']} passed, {entry['failed']} failed, {entry['skipped']} skipped"
        lines.append(f"`{name}`: {counted}, {len(entry['not_collected'])} files not imported.\n")
        lines += [f"- {f['test']}: {_text(f['last_line'])}" for f in entry["failures"]]
    return lines


if __name__ == "__main__":
    main()
