"""The verbs: each does its stage of a run, and what has to come before it.

Its modules load torch and the models' libraries; here each is imported when something of it is first used, so that
the command line can show its help and Python its names at once.
"""

from typing import TYPE_CHECKING

from sotune.lazy_names import offers

if TYPE_CHECKING:
    from sotune.pipeline.estimating import Estimate, estimate_run
    from sotune.pipeline.explaining import Explanation, explain
    from sotune.pipeline.handing_on import HandedOn, Merged, export, merge
    from sotune.pipeline.inspecting import Inspection, inspect_data
    from sotune.pipeline.model_comparison import ModelComparison, compare_models, plan_model_judging
    from sotune.pipeline.stage import RunSummary, StageOutcome
    from sotune.pipeline.unseen_rows import ScoreSummary, run_config, score
    from sotune.pipeline.verbs import figures, plan, plan_judging, run
    from sotune.pipeline.verifying import Verification, verify
    from sotune.pipeline.warm_scorer import ScoredRow, Scorer

_HOMES = {
    "estimating": ("Estimate", "estimate_run"),
    "explaining": ("Explanation", "explain"),
    "handing_on": ("HandedOn", "Merged", "export", "merge"),
    "inspecting": ("Inspection", "inspect_data"),
    "model_comparison": ("ModelComparison", "compare_models", "plan_model_judging"),
    "stage": ("RunSummary", "StageOutcome"),
    "unseen_rows": ("ScoreSummary", "run_config", "score"),
    "warm_scorer": ("ScoredRow", "Scorer"),
    "verbs": ("figures", "plan", "plan_judging", "run"),
    "verifying": ("Verification", "verify"),
}

__all__ = [
    "Estimate",
    "Explanation",
    "HandedOn",
    "Inspection",
    "Merged",
    "ModelComparison",
    "RunSummary",
    "ScoreSummary",
    "ScoredRow",
    "Scorer",
    "StageOutcome",
    "Verification",
    "compare_models",
    "estimate_run",
    "explain",
    "export",
    "figures",
    "inspect_data",
    "merge",
    "plan",
    "plan_judging",
    "plan_model_judging",
    "run",
    "run_config",
    "score",
    "verify",
]

__getattr__ = offers(__name__, _HOMES)
