"""Weights for scores of which only the order counts, and noise that belongs to a row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sotune.catalogue import Kind
from sotune.evaluation import EvalPrompt, Judge, Response
from sotune.evaluation.protocol import GradingJudge
from sotune.records import Record


def weights_by_rank(scores: Tensor) -> Tensor:
    """Returns weights in the order of the scores, on the simplex: mid-ranks, so that equal scores weigh the same.

    For scores without a scale of their own, such as sums of log-ratios: only the order counts for what is kept.

    Args:
        scores: ``[n]``, finite, larger is better.
    """
    _, group, sizes = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks: Tensor = (last - (sizes.double() - 1) / 2)[group]
    return ranks / ranks.sum()


def rank_with_ties(grades: Tensor, ids: Sequence[str], *, seed: int) -> Tensor:
    """Returns weights by rank of the grade, ``[n]``; among equal grades by noise that belongs to the row."""
    level = torch.unique(grades, return_inverse=True)[1]
    return weights_by_rank(level + row_noise(ids, seed))


def judged_scores(judge: Judge, records: Sequence[Record], *, kind: Kind, unscored: float) -> Tensor:
    """Returns a judge's grade of each row's completion as an answer to its prompt, float64, ``[n]``.

    Of a judge that gives no grades, its score.

    Args:
        judge: Scores them.
        records: The rows.
        kind: What the prompts test.
        unscored: The score of a row that the judge could not score.
    """
    prompts = [EvalPrompt(row.id, kind, row.prompt) for row in records]
    answers = [Response(r.id, r.completion, n_tokens=len(r.completion.split()), finished=True) for r in records]
    if isinstance(judge, GradingJudge):
        scores: Mapping[str, float | None] = judge.grade(prompts, answers)
    else:
        scores = {verdict.id: verdict.score for verdict in judge.judge(prompts, answers)}
    found = [unscored if (score := scores[row.id]) is None or math.isnan(score) else score for row in records]
    return torch.tensor(found, dtype=torch.float64)


def row_noise(ids: Sequence[str], seed: int) -> Tensor:
    """Returns a number in (0, 1) for each id, ``[n]``, float64: noise that belongs to a row, wherever it stands."""
    digests = [hashlib.sha256(f"{seed} {id}".encode()).digest()[:6] for id in ids]
    return torch.tensor([(int.from_bytes(digest) + 0.5) / 2**48 for digest in digests], dtype=torch.float64)
