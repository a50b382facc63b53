"""Learning one weight for each downstream row by push-pull optimal transport (Eq. 5 of the paper)."""

from sotune.weights.ground_cost import COSTS, Adaptive, Cosine, GroundCost, cost_of, relaxation_of
from sotune.weights.learn import References, ReferenceSet, fit_cost, learn_weights, pull_sets, rows_of
from sotune.weights.objective import PushPullProblem
from sotune.weights.scorer import Scorer
from sotune.weights.separation import held_out_contrast, held_out_separation
from sotune.weights.solution import LearnedWeights
from sotune.weights.suspicion import Suspicion, fit_suspicion, threshold_within
from sotune.weights.worst_view import fit_harm_score, pick_worst

__all__ = [
    "COSTS",
    "Adaptive",
    "Cosine",
    "GroundCost",
    "LearnedWeights",
    "PushPullProblem",
    "ReferenceSet",
    "References",
    "Scorer",
    "Suspicion",
    "cost_of",
    "fit_cost",
    "fit_harm_score",
    "fit_suspicion",
    "held_out_contrast",
    "held_out_separation",
    "learn_weights",
    "pick_worst",
    "pull_sets",
    "relaxation_of",
    "rows_of",
    "threshold_within",
]
