"""What methods are given, and what a weigher gives back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.evaluation import Judge
from sotune.evaluation.batching import Progress
from sotune.models import ModelSpec
from sotune.monitoring import Monitor, Silent
from sotune.records import Record, SetName
from sotune.rendering import Renderer, load_renderer
from sotune.sentinels import Sentinels
from sotune.settings import SentinelSettings, StageSettings, TrainingSettings, WeightSettings
from sotune.training.progress import OnStep
from sotune.transport import ALL_ROWS, Rows, Shards
from sotune.weights import LearnedWeights, Scorer

Own = TypeVar("Own", bound=StageSettings)


@dataclass(frozen=True)
class InputRecords:
    """The texts behind the representations, each set in the order of its representations."""

    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    safe_reference: Sequence[Record] = ()

    @property
    def pull(self) -> list[Record]:
        """The safe anchor and, after it, the safe reference: what is known to be safe."""
        return [*self.safe_anchor, *self.safe_reference]


def all_text(record: Record) -> str:
    """Returns the text of all turns, for methods that read words."""
    return "\n".join(message.content for message in record.messages)


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
        on_asked: Called while the model is asked prompts, with how many are answered and how many there are.
    """

    model: ModelSpec
    training: TrainingSettings
    work_dir: Path
    safety_pairs: Sequence[Record] = ()
    judge: Judge | None = None
    guard: Judge | None = None
    on_asked: Progress | None = None

    @functools.cached_property
    def renderer(self) -> Renderer:
        """How the model's rows and prompts become tokens; loaded once."""
        return load_renderer(self.model, self.training)


def own_constants(kind: type[Own], given: Mapping[str, Any]) -> Own:
    """Returns a method's own constants, those given and the defaults of others.

    Raises:
        ConfigError: A value is out of range.
    """
    return kind(**{name: value for name, value in given.items() if name in kind.model_fields})


@dataclass(frozen=True)
class WeighInputs:
    """What a weigher may look at.

    Attributes:
        downstream: Representations of the rows to weigh, ``[n, d]``: a tensor, or files that are read by slices.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        seed: For methods that draw.
        safe_reference: Representations of the general rows that meet risky prompts safely, ``[m, d]``; ``None`` where
            there are none.
        records: The rows themselves, for methods that read texts; ``None`` where only representations are known.
        tools: Model, settings and judges, for methods that run a model; ``None`` where there are none.
        truth: Whether a downstream row is harmful, by id. Only methods that need it see it.
        settings: How push-pull transport weighs.
        sentinels: What is kept back to measure what passes.
        method_settings: The method's own constants, where they are changed.
        monitor: Receives progress.
        shards: Which rows' kernels this process holds, where several weigh at once.
    """

    downstream: Rows
    safe_anchor: Tensor
    harmful_reference: Tensor
    seed: int
    safe_reference: Tensor | None = None
    records: InputRecords | None = None
    tools: Tools | None = None
    truth: Mapping[str, bool] | None = None
    settings: WeightSettings = field(default_factory=WeightSettings)
    sentinels: SentinelSettings = field(default_factory=SentinelSettings)
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    monitor: Monitor = field(default_factory=Silent)
    shards: Shards = ALL_ROWS

    @property
    def pull(self) -> Tensor:
        """Representations of the safe anchor and, after them, of the safe reference, ``[m, d]``."""
        return self.safe_anchor if self.safe_reference is None else torch.cat([self.safe_anchor, self.safe_reference])

    @property
    def rows(self) -> Tensor:
        """Representations of the rows to weigh, all of them in memory, ``[n, d]``."""
        return self.downstream[:]

    def own(self, kind: type[Own]) -> Own:
        """Returns the method's own constants."""
        return own_constants(kind, self.method_settings)

    def require_records(self, method: str) -> InputRecords:
        """Returns the rows for a method that reads texts.

        Raises:
            ConfigError: There are none.
        """
        if self.records is None:
            raise ConfigError(
                f"method {method!r} reads texts, but only representations were given; pass records=InputRecords(...)"
            )
        return self.records

    def require_tools(self, method: str) -> Tools:
        """Returns what a method needs that runs a model.

        Raises:
            ConfigError: There is nothing.
        """
        if self.tools is None:
            raise ConfigError(
                f"method {method!r} runs a model or a judge, but none was given; name a model, or pass tools=Tools(...)"
            )
        return self.tools


@dataclass(frozen=True)
class SolvedReference:
    """A reference that weights were solved with.

    Attributes:
        set_name: Which.
        rows: The rows that took part, ``[m, d]``.
        positions: Where these stand in the whole reference.
    """

    set_name: SetName
    rows: Tensor
    positions: Sequence[int]


@dataclass(frozen=True)
class Solution:
    """What push-pull transport knows besides the weights.

    Attributes:
        learned: The weights with their potentials.
        settings: How they were solved, what the sentinels chose included.
        references: What they were solved with, in the order of ``learned.references``, of which one may hold several.
        scorer: Weighs unseen rows; ``None`` for a solver whose weights are no function of the potentials.
    """

    learned: LearnedWeights
    settings: WeightSettings
    references: Sequence[SolvedReference]
    scorer: Scorer | None


@dataclass(frozen=True)
class Weighing:
    """What a method makes of the rows.

    Attributes:
        weights: One for each row, ``[n]``, ≥ 0, larger is better, of any scale.
        k: How many rows the method itself keeps; ``None``: what the settings of selection say.
        solution: Potentials and costs, where the weights are those of push-pull transport.
        sentinels: What rows that were kept back say of the weights.
        note: Why there are no sentinels.
    """

    weights: Tensor
    k: int | None = None
    solution: Solution | None = None
    sentinels: Sentinels | None = None
    note: str = "no sentinels: the method gives no function that could weigh unseen rows"


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
        safe_reference: General rows that meet risky prompts safely; empty where there are none.
        on_step: Called after each optimizer step.
        method_settings: The method's own constants, where they are changed.
        hold_drift: How far the model may drift from what it was, nats a token; for trainers that hold it to that.
        dropped_mass: By id of a row of the safe reference, how many dropped rows' mass transport would have sent to it;
            empty where nothing was transported or dropped.
    """

    records: Sequence[Record]
    loss_weights: Mapping[str, float]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    tools: Tools
    output_dir: Path
    safe_reference: Sequence[Record] = ()
    on_step: OnStep | None = None
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    hold_drift: float = 0.02
    dropped_mass: Mapping[str, float] = field(default_factory=dict)

    def own(self, kind: type[Own]) -> Own:
        """Returns the method's own constants."""
        return own_constants(kind, self.method_settings)


@dataclass(frozen=True)
class EditInputs:
    """What an editor may look at, and the adapter that it changes in place.

    Attributes:
        adapter: The saved adapter's folder.
        trained: All that the adapter was trained with.
    """

    adapter: Path
    trained: TrainInputs
