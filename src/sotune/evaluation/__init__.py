"""What a model answers, what judges hold of it, and which figures follow, each with its interval."""

from sotune.evaluation.generate import generate
from sotune.evaluation.protocol import EvalPrompt, Judge, Response, Verdict, pair_by_id, unscored

__all__ = ["EvalPrompt", "Judge", "Response", "Verdict", "generate", "pair_by_id", "unscored"]
