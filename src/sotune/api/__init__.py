"""The functions and the one class that notebooks, scripts and the command line call."""

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

__all__ = [
    "Run",
    "compare",
    "estimate",
    "evaluate",
    "explain",
    "extract",
    "inspect_data",
    "judge_check",
    "mix",
    "open_run",
    "plan",
    "plan_comparison",
    "plan_evaluation",
    "plan_inspection",
    "plan_judge_check",
    "plan_judging",
    "run",
    "score",
    "verify",
    "watched",
    "weigh",
]
