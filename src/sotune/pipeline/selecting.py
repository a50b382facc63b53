"""Fourth stage: weights to kept rows and loss weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sotune.artifacts import RunFolder, read_json, read_parquet, write_json, write_parquet, write_text
from sotune.monitoring import Monitor
from sotune.pipeline.promising import PROMISE, make_promise
from sotune.pipeline.record_sets import check_weight_column, read_records
from sotune.pipeline.stage import Figures, Stage
from sotune.records import Record
from sotune.selection import Evidence, SelectedRow, explain_row, log_margin, select_rows
from sotune.settings import RunConfig, SelectionSettings

_SELECTION, _KEPT = "selection.parquet", "kept.jsonl"
_EVIDENCE = ("nearest_safe", "nearest_harmful", "least_safe_cost", "least_harmful_cost")


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": {name: getattr(config, name) for name in SelectionSettings.model_fields}}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    weights = read_parquet(run.file("weights.parquet"))
    records = read_records(run, "downstream")["downstream"]
    promised = make_promise(config, run, weights["weight"])
    rows = select_rows(weights["id"], weights["weight"], k=promised.k, loss_weight_rule=config.loss_weight_rule)
    margins = [log_margin(row.weight, promised.cut_weight) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ("id", "weight", "loss_weight", "rank", "kept", "reason")
    }
    columns["margin"] = margins
    columns["explanation"] = [
        explain_row(row, Evidence(*evidence), margin=margin)
        for row, evidence, margin in zip(
            rows, zip(*(weights[name] for name in _EVIDENCE), strict=True), margins, strict=True
        )
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
    write_json(run.file(PROMISE), promised.described)
    return [_SELECTION, _KEPT, PROMISE]


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
    return figures


SELECTION = Stage("selection", "select", "weights", _key, _work, _summarize)
