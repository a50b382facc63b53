"""Fourth stage: weights to kept rows and loss weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sotune.artifacts import RunFolder, read_json, read_parquet, write_json, write_parquet, write_text
from sotune.monitoring import Monitor
from sotune.pipeline.method_tools import kinds_of
from sotune.pipeline.promising import PROMISE, make_promise
from sotune.pipeline.record_sets import check_weight_column, read_records
from sotune.pipeline.stage import Figures, Stage
from sotune.pipeline.weighing import SOLVER
from sotune.records import Record
from sotune.selection import Evidence, SelectedRow, explain_row, log_margin, select_rows
from sotune.settings import RunConfig, SelectionSettings

_SELECTION, _KEPT = "selection.parquet", "kept.jsonl"
_EVIDENCE = ("nearest_safe", "nearest_harmful", "least_safe_cost", "least_harmful_cost")


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": config.part(SelectionSettings).model_dump(mode="json")}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    weights = read_parquet(run.file("weights.parquet"))
    records = read_records(run, "downstream")["downstream"]
    promised = make_promise(config, run, weights["weight"], k=read_json(run.file(SOLVER))["k"])
    rows = select_rows(weights["id"], weights["weight"], k=promised.k, loss_weight_rule=config.loss_weight_rule)
    margins = [log_margin(row.weight, promised.cut_weight) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ("id", "weight", "loss_weight", "rank", "kept", "reason")
    }
    columns["margin"] = margins
    evidence = _evidence(weights)
    columns["explanation"] = [
        explain_row(row, found, margin=margin) for row, found, margin in zip(rows, evidence, margins, strict=True)
    ]
    write_parquet(
        run.file(_SELECTION),
        columns,
        schema={
            "id": "string",
            "loss_weight": "float64",
            "rank": "int64",
            "reason": "string",
            "margin": "float64",
            "explanation": "string",
        },
    )
    write_text(run.file(_KEPT), kept_lines(records, rows, weight_column=config.weight_column))
    kinds = count_kinds(kinds_of(config, records), {row.id for row in rows if row.kept})
    write_json(run.file(PROMISE), {**promised.described, **({"kinds": kinds} if kinds else {})})
    return [_SELECTION, _KEPT, PROMISE]


def _evidence(weights: Mapping[str, Sequence[Any]]) -> Sequence[Evidence | None]:
    """Returns what each row's weight follows from; nothing where the method says nothing of it."""
    if _EVIDENCE[0] not in weights:
        return [None] * len(weights["id"])
    return [Evidence(*found) for found in zip(*(weights[name] for name in _EVIDENCE), strict=True)]


def count_kinds(kinds: Mapping[str, str], kept: Collection[str]) -> dict[str, dict[str, int]]:
    """Counts the rows of each kind, all and kept.

    Args:
        kinds: What each row is, by id.
        kept: Ids of the kept rows.
    """
    counts: dict[str, dict[str, int]] = {}
    for id, kind in kinds.items():
        entry = counts.setdefault(kind, {"n": 0, "kept": 0})
        entry["n"] += 1
        entry["kept"] += id in kept
    return counts


def kept_lines(records: Sequence[Record], rows: Sequence[SelectedRow], *, weight_column: str) -> str:
    """Returns the user's own kept rows as JSON lines, in input order, each with its loss weight.

    Raises:
        DataError: A row has a column of that name already.
    """
    loss_weights = {row.id: row.loss_weight for row in rows if row.kept}
    check_weight_column(records, weight_column)
    return "".join(
        json.dumps({**record.meta, weight_column: loss_weights[record.id]}, ensure_ascii=False) + "\n"
        for record in records
        if record.id in loss_weights
    )


def _summarize(run: RunFolder) -> Figures:
    kept = read_parquet(run.file(_SELECTION))["kept"]
    passed = read_json(run.file(PROMISE)).get("harmful_pass")
    figures = {"kept": f"{sum(kept):,} of {len(kept):,} rows"}
    if passed is not None:
        figures["harm like the reference that passes"] = (
            f"{passed['count']} of {passed['n']} sentinels, at most {passed['high']:.1%} (95 %)"
        )
    kinds = read_json(run.file(PROMISE)).get("kinds") or {}
    return figures | {f"{kind} rows kept": f"{n['kept']:,} of {n['n']:,}" for kind, n in sorted(kinds.items())}


SELECTION = Stage("selection", "select", "weights", _key, _work, _summarize)
