"""Learning one weight for each downstream row by push-pull optimal transport (Eq. 5 of the paper)."""

from sotune.weights.learn import LearnedWeights, SolverSettings, learn_weights
from sotune.weights.objective import PushPullProblem
from sotune.weights.scoring import Scorer

__all__ = ["LearnedWeights", "PushPullProblem", "Scorer", "SolverSettings", "learn_weights"]
