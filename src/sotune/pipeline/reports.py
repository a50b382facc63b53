"""Last stage: artefacts to one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sotune.artifacts import RunFolder, contents_told
from sotune.monitoring import Monitor
from sotune.pipeline.gating import evaluation_in, found_in, without_gate
from sotune.pipeline.stage import Figures, Stage
from sotune.reporting import update_card, write_run_report
from sotune.run_files import PAGE, SELECTION, SOLVER, TRAINING
from sotune.settings import RunConfig


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": without_gate(config)}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    with contents_told(run.path):
        page = write_run_report(run, show_text=config.show_text).name
        return [page, *update_card(run, found_in(run.path), evaluation_in(run), how=_how(run))]


def _how(run: RunFolder) -> dict[str, str]:
    """Returns what was done, in words, for the adapter's card."""
    kept, solver, training = SELECTION.columns_of(run, "kept")["kept"], SOLVER.read(run), TRAINING.read_if_there(run)
    rows = f"{sum(kept):,} of {len(kept):,} kept, weighed by {solver.get('title', 'push-pull transport')}"
    return {"Rows": rows, **({"Training": training["title"]} if training.get("title") else {})}


def _summarize(run: RunFolder) -> Figures:
    return {"report": str(run.file(PAGE))}


REPORT = Stage("report", "report", "selection", _key, _work, _summarize, reads=("training", "evaluation"), version=3)
