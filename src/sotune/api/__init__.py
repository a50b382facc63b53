"""The functions and the two classes that notebooks, scripts and the command line call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sotune.api.beginning import Beginning, examine, list_references, read_places
from sotune.api.disk import find_cached, find_removable, list_runs, remove
from sotune.api.experiment import mix
from sotune.api.functions import (
    compare,
    estimate,
    evaluate,
    extract,
    inspect_data,
    judge_check,
    plan,
    plan_comparison,
    plan_evaluation,
    plan_inspection,
    plan_judge_check,
    plan_judging,
    run,
    weigh,
)
from sotune.api.run_handle import Run, explain, open_run, score, verify
from sotune.api.watching import watched
from sotune.monitoring import quiet_libraries

if TYPE_CHECKING:
    from sotune.pipeline import Scorer

__all__ = [
    "Beginning",
    "Run",
    "Scorer",
    "compare",
    "estimate",
    "evaluate",
    "examine",
    "explain",
    "extract",
    "find_cached",
    "find_removable",
    "inspect_data",
    "judge_check",
    "list_references",
    "list_runs",
    "mix",
    "open_run",
    "plan",
    "plan_comparison",
    "plan_evaluation",
    "plan_inspection",
    "plan_judge_check",
    "plan_judging",
    "read_places",
    "remove",
    "run",
    "score",
    "verify",
    "watched",
    "weigh",
]

quiet_libraries()  # whoever calls one of these, from the command line or from Python, has not loaded them yet


def __getattr__(name: str) -> Any:
    """Imports the class that needs torch when it is first used."""
    if name != "Scorer":
        raise AttributeError(f"module 'sotune.api' has no attribute {name!r}")
    from sotune.pipeline import Scorer

    return Scorer
