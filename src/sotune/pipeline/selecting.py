"""Fourth stage: weights to kept rows and loss weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sotune.artifacts import RunFolder, read_parquet, write_parquet, write_text
from sotune.config import RunConfig, SelectionSettings
from sotune.pipeline.record_sets import check_weight_column, read_records
from sotune.pipeline.stage import Figures, Monitor, Stage
from sotune.records import Record
from sotune.selection import SelectedRow, keep_count, select_rows

_SELECTION, _KEPT = "selection.parquet", "kept.jsonl"


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": {name: getattr(config, name) for name in SelectionSettings.model_fields}}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    weights = read_parquet(run.file("weights.parquet"))
    records = read_records(run, "downstream")["downstream"]
    k = keep_count(len(weights["id"]), keep_fraction=config.keep_fraction, k=config.k)
    rows = select_rows(weights["id"], weights["weight"], k=k, loss_weight_rule=config.loss_weight_rule)
    columns = ("id", "weight", "loss_weight", "rank", "kept", "reason")
    write_parquet(
        run.file(_SELECTION),
        {name: [getattr(row, name) for row in rows] for name in columns},
        schema={"id": "string", "loss_weight": "float64", "rank": "int64", "reason": "string"},
    )
    write_text(run.file(_KEPT), kept_lines(records, rows, weight_column=config.weight_column))
    return [_SELECTION, _KEPT]


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
    return {"kept": f"{sum(kept):,} of {len(kept):,} rows"}


SELECTION = Stage("selection", "select", "weights", _key, _work, _summarize)
