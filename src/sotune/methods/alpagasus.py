"""AlpaGasus: a judge grades each row, and the best are kept.

Chen et al., *AlpaGasus: Training a better Alpaca with fewer data* (ICLR 2024, https://arxiv.org/abs/2307.08701).

Released code asks gpt-3.5-turbo-0301, retired since, for the *accuracy* of each answer on a scale of 0 to 5 and keeps
grades of 4.5 and more; an answer that does not open with a bare number becomes -1 and is dropped silently, and a
fallback reads "Score: 4.5" as 4. Here any judge of the evaluation stage grades; its parser is the judge's own matter,
and a row that it cannot score is counted in a warning and ranks last. For equal K rows are ranked, with a seeded
tie-break, since half-point grades tie heavily. Quality is not safety: fluent harmful answers grade high.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.methods.ranking import judged_scores, rank_with_ties


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights by rank of the grade, ``[n]``, ties in an order that the seed decides.

    Raises:
        ConfigError: There are no records or no judge.
    """
    records, judge = inputs.require_records("alpagasus").downstream, inputs.require_tools("alpagasus").judge
    if judge is None:
        raise ConfigError("alpagasus needs a judge that grades answers; pass Tools(judge=...)")
    grades = judged_scores(judge, records, kind="task", unscored=-torch.inf)
    lost = int(grades.isneginf().sum())
    if lost:
        warnings.warn(
            f"judge {judge.name!r} could not grade {lost} of {len(records)} rows; they rank last", stacklevel=2
        )
    return rank_with_ties(grades, [r.id for r in records], seed=inputs.seed)


METHODS = (
    Method(
        "alpagasus",
        "AlpaGasus",
        citation="Chen et al., AlpaGasus: Training a better Alpaca with fewer data (ICLR 2024)",
        link="https://arxiv.org/abs/2307.08701",
        weigher=weigh,
        needs=frozenset({"judge"}),
    ),
)
