"""One file for each judge, which ``registry`` imports when it is asked for; all pass the same contract test."""

from sotune.evaluation.judges.naming import NamedJudge, Wanted, Workshop

__all__ = ["NamedJudge", "Wanted", "Workshop"]
