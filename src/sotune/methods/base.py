"""What a method is: a rule that gives each downstream row a weight, which decides what is kept and how it counts.

A method acts at exactly one seam. All that are here so far act at the first, *weigh*: selection, training and
evaluation are the same for all of them, so that a comparison compares nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sotune.selection import LossWeightRule


@dataclass(frozen=True)
class WeighInputs:
    """What a weigher may look at.

    Attributes:
        downstream: Representations of the rows to weigh, ``[n, d]``.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        seed: For methods that draw.
    """

    downstream: Tensor
    safe_anchor: Tensor
    harmful_reference: Tensor
    seed: int


@dataclass(frozen=True)
class Method:
    """A weigher with how its weights are used.

    Attributes:
        weigh: Returns one weight for each row, ``[n]``, ≥ 0, larger is better.
        loss_weight_rule: How the loss weight of a kept row follows from its weight.
        keeps_all: Whether every row is kept, whatever K is.
    """

    weigh: Callable[[WeighInputs], Tensor]
    loss_weight_rule: LossWeightRule
    keeps_all: bool = False
