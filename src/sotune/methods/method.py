"""What a method is: one change at one seam of the path from data to adapter.

A method *weighs* (records and representations to weights), *trains* (kept rows to an adapter, in a way of its own), or
*edits* (the saved adapter). All else is the same for all methods, so that a comparison compares nothing else. No method
sees the truth but those that say so, and these are bounds, not rivals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.records import Record
from sotune.selection import LossWeightRule

if TYPE_CHECKING:
    from sotune.evaluation import Judge
    from sotune.models import ModelSpec
    from sotune.training import TrainResult, TrainSettings
    from sotune.training.change import StepChange
    from sotune.training.progress import OnStep

Seam = Literal["weigh", "train", "edit"]


@dataclass(frozen=True)
class InputRecords:
    """The texts behind the representations, each set in the order of its representations."""

    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]


@dataclass(frozen=True)
class Tools:
    """What a method may use besides the data.

    Attributes:
        model: The model that will be fine-tuned.
        training: How; a method that trains a model of its own on the way uses the same settings.
        work_dir: A folder for what a method needs on the way; removed by whoever made it.
        safety_pairs: Harmful prompts with refusals, none of them from the evaluation. Empty: a method that needs pairs
            takes the harmful reference's prompts with the model's own answers.
        judge: Grades a row's completion, larger is better: the judge of AlpaGasus.
        guard: Scores harm, larger is worse: the guard classifier. ``None``: the model guards itself.
        truth: Whether a downstream row is harmful, by id. Given only to methods that say `Method.uses_truth`.
    """

    model: ModelSpec
    training: TrainSettings
    work_dir: Path
    safety_pairs: Sequence[Record] = ()
    judge: Judge | None = None
    guard: Judge | None = None
    truth: Mapping[str, bool] | None = None


@dataclass(frozen=True)
class WeighInputs:
    """What a weigher may look at.

    Attributes:
        downstream: Representations of the rows to weigh, ``[n, d]``.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        seed: For methods that draw.
        records: The rows themselves, for methods that read texts; ``None`` where only representations are known.
        tools: Model, settings and judges, for methods that run a model; ``None`` where there are none.
    """

    downstream: Tensor
    safe_anchor: Tensor
    harmful_reference: Tensor
    seed: int
    records: InputRecords | None = None
    tools: Tools | None = None

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

    def require_tools(self, method: str) -> Tools:
        """Returns what a method needs that runs a model.

        Raises:
            ConfigError: There is nothing.
        """
        if self.tools is None:
            raise ConfigError(f"method {method!r} runs a model or a judge, and none was given; pass tools=Tools(...)")
        return self.tools


@dataclass(frozen=True)
class TrainInputs:
    """What a trainer may look at.

    Attributes:
        records: The rows to fine-tune on, in the order of the data.
        loss_weights: The loss weight of each by id, mean 1.
        safe_anchor: The trusted rows.
        harmful_reference: The harmful rows.
        tools: Model, settings and safety pairs. The settings' number of steps is the budget of every method.
        output_dir: Gets ``adapter/`` and the training log.
        on_step: Called after each optimizer step.
    """

    records: Sequence[Record]
    loss_weights: Mapping[str, float]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    tools: Tools
    output_dir: Path
    on_step: OnStep | None = None


@dataclass(frozen=True)
class EditInputs:
    """What an editor may look at, and the adapter that it changes in place.

    Attributes:
        adapter: The saved adapter's folder.
        trained: All that the adapter was trained with.
    """

    adapter: Path
    trained: TrainInputs


def train_weighted(
    inputs: TrainInputs, *, change: StepChange | None = None, learned_tokens: Mapping[str, Tensor] | None = None
) -> TrainResult:
    """Fine-tunes on the weighted loss of Eq. 8: what every method does that does not change training.

    Args:
        inputs: All that training may look at.
        change: What a method changes about the training step.
        learned_tokens: Which completion tokens carry loss; see `sotune.training.fine_tune`.

    Raises:
        DataError: Nothing is left to learn.
        SotuneError: Training diverged.
    """
    from sotune.training import fine_tune

    return fine_tune(
        inputs.records,
        inputs.loss_weights,
        model=inputs.tools.model,
        settings=inputs.tools.training,
        output_dir=inputs.output_dir,
        on_step=inputs.on_step,
        change=change,
        learned_tokens=learned_tokens,
    )


def weigh_equally(inputs: WeighInputs) -> Tensor:
    """Returns equal weights, ``[n]``."""
    n = inputs.downstream.shape[0]
    return torch.full((n,), 1 / n, dtype=torch.float64)


@dataclass(frozen=True)
class Method:
    """A change at one seam. What is left as it is has the default; `weighing`, `training` and `editing` build one.

    Attributes:
        weigh: Returns one weight for each row, ``[n]``, ≥ 0, larger is better.
        loss_weight_rule: How the loss weight of a kept row follows from its weight.
        keeps_all: Whether every row is kept, whatever K is.
        keep: Returns how many rows are kept, from the inputs and the weights; ``None``: the budget's K.
        train: Trains the adapter in another way than `train_weighted`.
        edit: Changes the saved adapter.
        uses_truth: Whether it is given the labels: a bound, not a rival.
    """

    weigh: Callable[[WeighInputs], Tensor] = field(default=weigh_equally)
    loss_weight_rule: LossWeightRule = "uniform"
    keeps_all: bool = False
    keep: Callable[[WeighInputs, Tensor], int] | None = None
    train: Callable[[TrainInputs], TrainResult] | None = None
    edit: Callable[[EditInputs], None] | None = None
    uses_truth: bool = False

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The seams that it acts at: one for a method, more for a combination, none for plain fine-tuning."""
        acts: dict[Seam, bool] = {
            "weigh": self.weigh is not weigh_equally,
            "train": self.train is not None,
            "edit": self.edit is not None,
        }
        return tuple(seam for seam, does in acts.items() if does)


def weighing(weigh: Callable[[WeighInputs], Tensor], loss_weight_rule: LossWeightRule = "uniform") -> Method:
    """Returns a method that weighs, keeps K rows and trains as usual."""
    return Method(weigh, loss_weight_rule)


def training(train: Callable[[TrainInputs], TrainResult]) -> Method:
    """Returns a method that keeps all rows and trains in its own way."""
    return Method(keeps_all=True, train=train)


def editing(edit: Callable[[EditInputs], None]) -> Method:
    """Returns a method that keeps all rows, trains as usual and changes the adapter afterwards."""
    return Method(keeps_all=True, edit=edit)


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


def row_noise(ids: Sequence[str], seed: int) -> Tensor:
    """Returns a number in (0, 1) for each id, ``[n]``, float64: noise that belongs to a row, wherever it stands."""
    digests = [hashlib.sha256(f"{seed} {id}".encode()).digest()[:6] for id in ids]
    return torch.tensor([(int.from_bytes(digest) + 0.5) / 2**48 for digest in digests], dtype=torch.float64)
