"""What a method is: one change at one seam of the path from data to adapter.

A method *weighs* (records and representations to weights), *trains* (kept rows to an adapter, in a way of its own), or
*edits* (the saved adapter). All else is the same for all methods, so that a comparison compares nothing else. No method
sees the truth but those that say so, and these are bounds, not rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.monitoring import Monitor, Silent
from sotune.records import Record
from sotune.selection import LossWeightRule
from sotune.settings import SentinelSettings, StageSettings, WeightSettings, nearest_setting
from sotune.transport import Rows

if TYPE_CHECKING:
    from sotune.evaluation import Judge
    from sotune.models import ModelSpec
    from sotune.sentinels import Sentinels
    from sotune.settings import TrainingSettings
    from sotune.training import TrainResult
    from sotune.training.change import StepChange
    from sotune.training.progress import OnStep
    from sotune.weights import LearnedWeights, Scorer

Seam = Literal["weigh", "train", "edit"]
Kind = Literal["ours", "rival", "bound", "control"]
Need = Literal["model", "judge", "truth"]
Own = TypeVar("Own", bound=StageSettings)


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
    """

    model: ModelSpec
    training: TrainingSettings
    work_dir: Path
    safety_pairs: Sequence[Record] = ()
    judge: Judge | None = None
    guard: Judge | None = None


def _own(kind: type[Own], given: Mapping[str, Any]) -> Own:
    return kind(**{name: value for name, value in given.items() if name in kind.model_fields})


@dataclass(frozen=True)
class WeighInputs:
    """What a weigher may look at.

    Attributes:
        downstream: Representations of the rows to weigh, ``[n, d]``: a tensor, or files that are read by slices.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        seed: For methods that draw.
        records: The rows themselves, for methods that read texts; ``None`` where only representations are known.
        tools: Model, settings and judges, for methods that run a model; ``None`` where there are none.
        truth: Whether a downstream row is harmful, by id. Only methods that need it see it.
        settings: How push-pull transport weighs.
        sentinels: What is kept back to measure what passes.
        method_settings: The method's own constants, where they are changed.
        monitor: Is told of progress.
    """

    downstream: Rows
    safe_anchor: Tensor
    harmful_reference: Tensor
    seed: int
    records: InputRecords | None = None
    tools: Tools | None = None
    truth: Mapping[str, bool] | None = None
    settings: WeightSettings = field(default_factory=WeightSettings)
    sentinels: SentinelSettings = field(default_factory=SentinelSettings)
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    monitor: Monitor = field(default_factory=Silent)

    @property
    def rows(self) -> Tensor:
        """Representations of the rows to weigh, all of them in memory, ``[n, d]``."""
        return self.downstream[:]

    def own(self, kind: type[Own]) -> Own:
        """Returns the method's own constants."""
        return _own(kind, self.method_settings)

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
            raise ConfigError(
                f"method {method!r} runs a model or a judge, and none was given; name a model, or pass tools=Tools(...)"
            )
        return self.tools


@dataclass(frozen=True)
class Solution:
    """What push-pull transport knows besides the weights.

    Attributes:
        learned: The weights with their potentials.
        settings: How they were solved, what the sentinels chose included.
        harmful_reference: The harmful rows that they were solved with, ``[m, d]``.
        positions: Where these stand in the whole harmful reference.
        scorer: Weighs unseen rows; ``None`` for a solver whose weights are no function of the potentials.
    """

    learned: LearnedWeights
    settings: WeightSettings
    harmful_reference: Tensor
    positions: Sequence[int]
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
        on_step: Called after each optimizer step.
        method_settings: The method's own constants, where they are changed.
    """

    records: Sequence[Record]
    loss_weights: Mapping[str, float]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    tools: Tools
    output_dir: Path
    on_step: OnStep | None = None
    method_settings: Mapping[str, Any] = field(default_factory=dict)

    def own(self, kind: type[Own]) -> Own:
        """Returns the method's own constants."""
        return _own(kind, self.method_settings)


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


@dataclass(frozen=True)
class Method:
    """A change at one seam, and what tables say of it. What is left out is as in plain fine-tuning.

    Attributes:
        name: What settings call it.
        title: What people call it.
        kind: ``ours``; ``rival``; ``bound``, which knows the truth and does not compete; or ``control``.
        citation: Where it is from.
        link: The address of that.
        weigher: Returns one weight for each row, ``[n]``, ≥ 0, larger is better, or a `Weighing`.
        learner: In its place, for weights that are a function of the representation: returns that function. What
            passes is then measured with sentinels.
        trainer: Trains the adapter in another way than `train_weighted`.
        editor: Changes the saved adapter.
        drops_none: Whether a weigher's weights count in the loss alone, and every row is kept.
        loss_weight_rule: How the loss weight of a kept row follows from its weight, unless the settings say so.
        changes: Settings of a run that the method brings; those that the user gives count more.
        own_settings: Its own constants, one class; more of a combination.
        needs: What it cannot do without besides the data.
        parts: Of a combination.
    """

    name: str
    title: str
    kind: Kind = "rival"
    citation: str = ""
    link: str = ""
    weigher: Callable[[WeighInputs], Tensor | Weighing] | None = None
    learner: Callable[[WeighInputs], Callable[[Tensor], Tensor]] | None = None
    trainer: Callable[[TrainInputs], TrainResult] | None = None
    editor: Callable[[EditInputs], None] | None = None
    drops_none: bool = False
    loss_weight_rule: LossWeightRule = "uniform"
    changes: Mapping[str, Any] = field(default_factory=dict)
    own_settings: tuple[type[StageSettings], ...] = ()
    needs: frozenset[Need] = frozenset()
    parts: tuple[Method, ...] = ()

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The seams that it acts at: one for a method, more for a combination, none for plain fine-tuning."""
        acts: dict[Seam, bool] = {
            "weigh": self.weigher is not None or self.learner is not None,
            "train": self.trainer is not None,
            "edit": self.editor is not None,
        }
        return tuple(seam for seam, does in acts.items() if does)

    @property
    def keeps_all(self) -> bool:
        """Whether every row is kept, whatever K is."""
        return self.drops_none or "weigh" not in self.seams

    @property
    def preset(self) -> dict[str, Any]:
        """The settings of a run that it brings."""
        return {"loss_weight_rule": self.loss_weight_rule, **self.changes}

    def at(self, *seams: Seam) -> list[str]:
        """Returns who acts at some seams, by name."""
        return [part.name for part in self.parts or (self,) if set(seams) & set(part.seams)]

    @property
    def described(self) -> dict[str, str]:
        """What is written down of it."""
        return {
            "method": self.name,
            "title": self.title,
            "kind": self.kind,
            "citation": self.citation,
            "link": self.link,
        }

    def constants(self, given: Mapping[str, Any], *seams: Seam) -> dict[str, Any]:
        """Returns those of the method's own constants that matter at some seams."""
        acting = [part for part in self.parts or (self,) if set(seams) & set(part.seams)]
        known = {name for part in acting for kind in part.own_settings for name in kind.model_fields}
        return {name: value for name, value in given.items() if name in known}

    def check_settings(self, given: Mapping[str, Any]) -> None:
        """Checks the method's own constants.

        Raises:
            ConfigError: It has no such constant, or a value is out of range.
        """
        known = [name for kind in self.own_settings for name in kind.model_fields]
        for name in given:
            if name not in known:
                near = nearest_setting(name, known)
                has = f"it has {', '.join(known)}" if known else "it has none"
                hint = f"did you mean {near!r}?" if near else has
                raise ConfigError(f"method {self.name!r} has no constant {name!r} among its method_settings; {hint}")
        for kind in self.own_settings:
            _own(kind, given)

    def weigh(self, inputs: WeighInputs) -> Weighing:
        """Weighs the rows; a method that does not, weighs all alike. The truth reaches only those that need it.

        Raises:
            ConfigError: The inputs lack what the method needs.
            DataError: They cannot be used.
        """
        from sotune.methods.unseen import weigh_by_function

        inputs = replace(
            inputs,
            truth=inputs.truth if "truth" in self.needs else None,
            settings=inputs.settings.over(self.changes),
            sentinels=inputs.sentinels.over(self.changes),
        )
        n = inputs.downstream.shape[0]
        if self.learner is not None:
            weighing = weigh_by_function(self.learner, inputs)
        elif self.weigher is not None:
            found = self.weigher(inputs)
            weighing = Weighing(found) if isinstance(found, Tensor) else found
        else:
            equal = torch.full((n,), 1 / n, dtype=torch.float64)
            weighing = Weighing(equal, note="no sentinels: the method weighs all rows alike")
        return replace(weighing, k=n) if self.keeps_all else weighing

    def train(self, inputs: TrainInputs) -> TrainResult:
        """Trains and edits, each as the method says or else as usual.

        Raises:
            DataError: Nothing is left to learn.
            SotuneError: Training diverged.
        """
        result = (self.trainer or train_weighted)(inputs)
        if self.editor is not None:
            self.editor(EditInputs(result.adapter, inputs))
        return result
