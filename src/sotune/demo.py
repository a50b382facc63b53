"""The demonstration: fine-tuning breaks safety and selection keeps it, shown on the embedded world in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sotune.comparison import BASE
from sotune.comparison.compare import FIGURES, CompareSummary, run_comparison
from sotune.comparison.compare_settings import MINIATURE, CompareSettings, make_compare_settings
from sotune.miniature.topics import Task
from sotune.monitoring import Monitor

METHODS = (BASE, "sft", "random", "probe", "sot", "adaptive")
__all__ = ["FIGURES", "METHODS", "DemoSettings", "compare_settings", "run_demo"]


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration runs; the defaults make it last a few minutes on a laptop.

    Attributes:
        task: The miniature's task that is to be learned.
        seeds: How many draws.
        n: Downstream rows.
        harmful_fraction: Share of them that comply with harmful requests.
        n_anchor: Rows of the safe anchor.
        n_reference: Rows of the harmful reference.
        n_each: Evaluation prompts of each kind.
        methods: What is compared.
        workers: Cells measured at once, each in a process of its own.
        threads: CPU threads of each; a model this small gains nothing from more.
    """

    task: Task = "verdict"
    seeds: int = 3
    n: int = 2000
    harmful_fraction: float = 0.1
    n_anchor: int = 50
    n_reference: int = 200
    n_each: int = 200
    methods: tuple[str, ...] = METHODS
    workers: int = 1
    threads: int = 1


def run_demo(out: Path, settings: DemoSettings, monitor: Monitor) -> CompareSummary:
    """Compares methods on the miniature and writes a report; goes on where an earlier call stopped.

    Raises:
        ArtifactError: ``out`` holds something else.
    """
    return run_comparison(compare_settings(settings), out, monitor, page="report.html")


def compare_settings(settings: DemoSettings) -> CompareSettings:
    """Returns the comparison that the demonstration is."""
    return make_compare_settings(
        {
            "model": MINIATURE,
            "methods": list(settings.methods),
            "datasets": [f"{MINIATURE}-{settings.task}"],
            "harmful_fractions": [settings.harmful_fraction],
            "seeds": settings.seeds,
            "n": settings.n,
            "n_anchor": settings.n_anchor,
            "n_reference": settings.n_reference,
            "n_eval": settings.n_each,
            "workers": settings.workers,
            "threads": settings.threads,
        }
    )
