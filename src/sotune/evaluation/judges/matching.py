"""The judges that need no model and no network, each a stand-in where nothing better is given."""

from __future__ import annotations

from typing import ClassVar

from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.match import MatchJudge, MatchRule
from sotune.evaluation.judges.naming import NamedJudge, Wanted, Workshop
from sotune.evaluation.judges.refusal import ComplianceJudge, RefusalJudge
from sotune.evaluation.metrics import JudgeRole
from sotune.evaluation.protocol import Judge
from sotune.settings import MatchingSettings


class MatchingJudges(NamedJudge):
    """Phrases, rules and answers: a judge for each role."""

    forms: ClassVar = ()
    Settings: ClassVar = MatchingSettings

    @classmethod
    def make(cls, wanted: Wanted, workshop: Workshop) -> Judge:
        """Returns the judge of the role."""
        rule = wanted.settings.task_match
        return default_judges(task=rule, skill=rule)[wanted.role]


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
