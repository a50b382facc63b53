"""The demonstration: fine-tuning breaks safety and selection keeps it, shown on the embedded world in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sotune.comparison import BASE
from sotune.comparison.compare import CompareSummary, run_comparison
from sotune.comparison.compare_settings import MINIATURE, CompareSettings, make_compare_settings
from sotune.monitoring import Monitor

METHODS = (BASE, "sft", "random", "probe", "sot", "adaptive")


def demo_settings(**changes: Any) -> CompareSettings:
    """Returns the comparison that the demonstration is, with some settings changed; it lasts a few minutes."""
    return make_compare_settings({"methods": METHODS, "datasets": [f"{MINIATURE}-verdict"], "seeds": 3, **changes})


def run_demo(out: Path, settings: CompareSettings, monitor: Monitor) -> CompareSummary:
    """Compares methods on the miniature and writes a report; goes on where an earlier call stopped.

    Raises:
        ArtifactError: ``out`` holds something else.
    """
    return run_comparison(settings, out, monitor, page="report.html")
