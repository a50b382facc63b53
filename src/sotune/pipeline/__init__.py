"""The verbs: each does its stage of a run, and what has to come before it."""

from sotune.evaluation.usage import JudgingPlan
from sotune.pipeline.explaining import Explanation, explain
from sotune.pipeline.stage import RunSummary, StageOutcome
from sotune.pipeline.unseen_rows import ScoreSummary, score
from sotune.pipeline.verbs import figures, plan, plan_judging, run

__all__ = [
    "Explanation",
    "JudgingPlan",
    "RunSummary",
    "ScoreSummary",
    "StageOutcome",
    "explain",
    "figures",
    "plan",
    "plan_judging",
    "run",
    "score",
]
