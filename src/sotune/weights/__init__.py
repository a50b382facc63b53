"""Learning one weight for each downstream row by push-pull optimal transport (Eq. 5 of the paper)."""

from sotune.weights.learn import LearnedWeights, SolverSettings, learn_weights
from sotune.weights.objective import PushPullProblem
from sotune.weights.scoring import Scorer
from sotune.weights.separation import held_out_separation

__all__ = ["LearnedWeights", "PushPullProblem", "Scorer", "SolverSettings", "held_out_separation", "learn_weights"]
