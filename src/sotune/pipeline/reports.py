"""Last stage: artefacts to one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sotune.artifacts import RunFolder
from sotune.monitoring import Monitor
from sotune.pipeline.stage import Figures, Stage
from sotune.reporting import write_run_report
from sotune.run_files import PAGE
from sotune.settings import RunConfig


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": config.model_dump(mode="json")}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    return [write_run_report(run, show_text=config.show_text).name]


def _summarize(run: RunFolder) -> Figures:
    return {"report": str(run.file(PAGE))}


REPORT = Stage("report", "report", "selection", _key, _work, _summarize, reads=("training", "evaluation"), version=2)
