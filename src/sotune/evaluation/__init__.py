"""What a model answers, what judges hold of it, and which figures follow, each with its interval."""

from sotune.evaluation.assessment import Assessment, Limits, assess
from sotune.evaluation.candidates import Candidate
from sotune.evaluation.changes import Change, find_changes
from sotune.evaluation.estimates import (
    Amount,
    Estimate,
    estimate_amount,
    estimate_average,
    estimate_mean,
    estimate_rate,
)
from sotune.evaluation.evaluator import evaluate
from sotune.evaluation.generate import generate
from sotune.evaluation.judges import (
    CoherenceJudge,
    ComplianceJudge,
    MatchJudge,
    RefusalJudge,
    default_judges,
)
from sotune.evaluation.judging import Judged, judge_responses
from sotune.evaluation.metrics import (
    JUDGE_ROLES,
    METRICS,
    JudgeRole,
    MetricName,
    Metrics,
    compute_metrics,
    flatten_metrics,
    metrics_from_json,
    metrics_to_json,
)
from sotune.evaluation.outcome import Evaluation, load_evaluation, save_evaluation
from sotune.evaluation.protocol import (
    KINDS,
    UNSCORED,
    EvalPrompt,
    Judge,
    Kind,
    Response,
    Verdict,
    pair_by_id,
    unscored,
)
from sotune.evaluation.store import (
    ResponseShards,
    load_responses,
    load_verdicts,
    save_responses,
    save_verdicts,
)

__all__ = [
    "JUDGE_ROLES",
    "KINDS",
    "METRICS",
    "UNSCORED",
    "Amount",
    "Assessment",
    "Candidate",
    "Change",
    "CoherenceJudge",
    "ComplianceJudge",
    "Estimate",
    "EvalPrompt",
    "Evaluation",
    "Judge",
    "JudgeRole",
    "Judged",
    "Kind",
    "Limits",
    "MatchJudge",
    "MetricName",
    "Metrics",
    "RefusalJudge",
    "Response",
    "ResponseShards",
    "Verdict",
    "assess",
    "compute_metrics",
    "default_judges",
    "estimate_amount",
    "estimate_average",
    "estimate_mean",
    "estimate_rate",
    "evaluate",
    "find_changes",
    "flatten_metrics",
    "generate",
    "judge_responses",
    "load_evaluation",
    "load_responses",
    "load_verdicts",
    "metrics_from_json",
    "metrics_to_json",
    "pair_by_id",
    "save_evaluation",
    "save_responses",
    "save_verdicts",
    "unscored",
]
