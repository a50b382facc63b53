"""How suspicious a stretch of text looks by its words alone: what decides which of them are read."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sotune.errors import ArtifactError
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import LinearScore, fit_balanced


@dataclass(frozen=True)
class Suspicion:
    """A linear score of looks at stretches of text, and from where on what holds one is worth reading.

    Attributes:
        score: From looks ``[k, e]`` to log-odds of harm.
        of_parts: What the worst stretch of a part of a long row scores at least where that part is read.
        of_stretches: What the worst stretch of a short row scores at least where it is read.
    """

    score: LinearScore
    of_parts: float
    of_stretches: float

    def state(self) -> dict[str, Any]:
        """Returns it as JSON holds it, to the last bit."""
        return {
            "direction": self.score.direction.tolist(),
            "offset": self.score.offset,
            "of_parts": self.of_parts,
            "of_stretches": self.of_stretches,
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Makes it of its saved state.

        Raises:
            ArtifactError: That is none.

        >>> saved = {"direction": [1.0, 0.0], "offset": 0.5, "of_parts": -1.0, "of_stretches": 2.0}
        >>> Suspicion.restore(saved).state() == saved
        True
        """
        try:
            direction = torch.tensor(state["direction"], dtype=torch.float64)
            offset, *least = (float(state[name]) for name in ("offset", "of_parts", "of_stretches"))
        except (KeyError, TypeError, ValueError, RuntimeError):
            direction, offset, least = torch.zeros(0), math.nan, []
        if direction.ndim != 1 or not all(map(math.isfinite, [offset, *least, *direction.tolist()])):
            raise ArtifactError("the run's look at words holds odd values; run `sotune weigh` again")
        return cls(LinearScore(direction, offset), *least)


def fit_suspicion(plain: Tensor, harmful: Tensor) -> LinearScore:
    """Fits what tells the stretches of harmful rows from all others, harmless or not yet known.

    Args:
        plain: Looks at stretches of what pulls and of the downstream rows, ``[m, e]``.
        harmful: Those of the harmful reference.

    Raises:
        SotuneError: The fit diverged.

    >>> score = fit_suspicion(torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([[0.0, 1.0]]))
    >>> (score(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) > 0).tolist()
    [False, True]
    """
    return fit_balanced(plain, harmful, inverse_regularization=PROBE_REGULARIZATION)


def threshold_within(budget: float, scores: Sequence[float], lengths: Sequence[int]) -> float:
    """Returns from which score on things are read, the highest first, so that their lengths stay within a budget.

    Midway between two scores, so that the last bits of a score decide nothing.

    >>> threshold_within(50, [3.0, 1.0, 2.0], [20, 20, 20])
    1.5
    >>> threshold_within(10, [3.0], [20]), threshold_within(20, [3.0], [20])
    (4.0, 2.0)
    >>> threshold_within(50, [3.0, 2.0, 2.0], [20, 20, 20])  # equal ones all or none
    2.5
    """
    spent, last = 0, math.nan
    ranked = sorted(zip(scores, lengths, strict=True), reverse=True)
    for score, alike in itertools.groupby(ranked, key=operator.itemgetter(0)):
        spent += sum(length for _, length in alike)
        if spent > budget:
            return float(score) + 1 if math.isnan(last) else (float(score) + last) / 2
        last = float(score)
    return 0.0 if math.isnan(last) else last - 1
