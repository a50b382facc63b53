"""One file for each judge; every one of them passes the same contract test."""

from sotune.catalogue import MatchRule
from sotune.evaluation.base import Judge
from sotune.evaluation.judges.chat import ChatJudge, Usage
from sotune.evaluation.judges.classifier import CLASSIFIER_INPUTS, ClassifierInput, ClassifierJudge
from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.guard import GuardJudge
from sotune.evaluation.judges.match import MATCH_RULES, MatchJudge
from sotune.evaluation.judges.panel import PanelJudge, compute_agreements
from sotune.evaluation.judges.refusal import ComplianceJudge, RefusalJudge
from sotune.evaluation.metrics import JudgeRole

__all__ = [
    "CLASSIFIER_INPUTS",
    "MATCH_RULES",
    "ClassifierInput",
    "ClassifierJudge",
    "ChatJudge",
    "CoherenceJudge",
    "ComplianceJudge",
    "GuardJudge",
    "MatchJudge",
    "MatchRule",
    "PanelJudge",
    "RefusalJudge",
    "Usage",
    "compute_agreements",
    "default_judges",
]


def default_judges(*, task: MatchRule, skill: MatchRule) -> dict[JudgeRole, Judge]:
    """Returns judges that need no model and no network, for English; each a stand-in where nothing better is given.

    Args:
        task: How answers to ``task`` prompts are matched.
        skill: How answers to ``skill`` prompts are matched.
    """
    return {
        "harm": ComplianceJudge(),
        "refusal": RefusalJudge(),
        "task": MatchJudge(task),
        "skill": MatchJudge(skill),
        "coherence": CoherenceJudge(),
    }
