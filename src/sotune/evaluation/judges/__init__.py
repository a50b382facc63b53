"""One file for each judge; every one of them passes the same contract test."""

from sotune.evaluation.judges.chat import ChatJudge
from sotune.evaluation.judges.classifier import CLASSIFIER_INPUTS, ClassifierInput, ClassifierJudge
from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.guard import GuardJudge
from sotune.evaluation.judges.match import MATCH_RULES, MatchJudge, MatchRule
from sotune.evaluation.judges.matching import default_judges
from sotune.evaluation.judges.naming import CountsUsage, NamedJudge, Usage, Wanted, Workshop
from sotune.evaluation.judges.panel import PanelJudge, compute_agreements
from sotune.evaluation.judges.refusal import ComplianceJudge, RefusalJudge
from sotune.evaluation.judges.registry import JUDGES, check_judges, judge_key, make_judges, model_free_judges

__all__ = [
    "CLASSIFIER_INPUTS",
    "JUDGES",
    "MATCH_RULES",
    "ClassifierInput",
    "ClassifierJudge",
    "ChatJudge",
    "CoherenceJudge",
    "CountsUsage",
    "ComplianceJudge",
    "GuardJudge",
    "MatchJudge",
    "MatchRule",
    "NamedJudge",
    "PanelJudge",
    "RefusalJudge",
    "Usage",
    "Wanted",
    "Workshop",
    "check_judges",
    "compute_agreements",
    "default_judges",
    "judge_key",
    "make_judges",
    "model_free_judges",
]
