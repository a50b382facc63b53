"""What a method is: a rule that gives each downstream row a weight, which decides what is kept and how it counts.

A method acts at exactly one seam. All that are here so far act at the first, *weigh*: selection, training and
evaluation are the same for all of them, so that a comparison compares nothing else. No method sees the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sotune.errors import ConfigError
from sotune.records import Record
from sotune.selection import LossWeightRule


@dataclass(frozen=True)
class InputRecords:
    """The texts behind the representations, each set in the order of its representations."""

    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]


@dataclass(frozen=True)
class WeighInputs:
    """What a weigher may look at.

    Attributes:
        downstream: Representations of the rows to weigh, ``[n, d]``.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        seed: For methods that draw.
        records: The rows themselves, for methods that read texts; ``None`` where only representations are known.
    """

    downstream: Tensor
    safe_anchor: Tensor
    harmful_reference: Tensor
    seed: int
    records: InputRecords | None = None

    def require_records(self, method: str) -> InputRecords:
        """Returns the rows for a method that reads texts.

        Raises:
            ConfigError: There are none.
        """
        if self.records is None:
            raise ConfigError(
                f"method {method!r} reads texts, and only representations were given; pass records=InputRecords(...)"
            )
        return self.records


@dataclass(frozen=True)
class Method:
    """A weigher with how its weights are used.

    Attributes:
        weigh: Returns one weight for each row, ``[n]``, ≥ 0, larger is better.
        loss_weight_rule: How the loss weight of a kept row follows from its weight.
        keeps_all: Whether every row is kept, whatever K is.
        keep: Returns how many rows are kept, from the inputs and the weights; ``None``: the budget's K.
    """

    weigh: Callable[[WeighInputs], Tensor]
    loss_weight_rule: LossWeightRule
    keeps_all: bool = False
    keep: Callable[[WeighInputs, Tensor], int] | None = None
