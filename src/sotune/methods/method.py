"""What a method is: one change at one seam of the path from data to adapter.

A method *weighs* (records and representations to weights), *trains* (kept rows to an adapter, in a way of its own), or
*edits* (the saved adapter). All else is the same for all methods, so that a comparison compares nothing else. No method
sees the truth but those that say so, and these are bounds, not rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sotune import processes, training
from sotune.errors import ConfigError
from sotune.methods.counted import Counted
from sotune.methods.inputs import EditInputs, TrainInputs, Weighing, WeighInputs, own_constants
from sotune.methods.refusal_probe import refusal_probe
from sotune.methods.unseen import weigh_by_function
from sotune.selection import LossWeightRule
from sotune.settings import StageSettings, nearest_setting
from sotune.training import TrainResult
from sotune.training.change import StepChange

Seam = Literal["weigh", "train", "edit"]
Kind = Literal["ours", "rival", "bound", "control"]
Need = Literal["model", "judge", "truth"]


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
    return training.fine_tune(
        inputs.records,
        inputs.loss_weights,
        model=inputs.tools.model,
        settings=inputs.tools.training,
        output_dir=inputs.output_dir,
        on_step=inputs.on_step,
        change=change and Counted(change),
        learned_tokens=learned_tokens,
        probe=refusal_probe(inputs),
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
        limits_drift: Whether it keeps the run's ``hold_drift``.
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
    limits_drift: bool = False
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
        return [part.name for part in self._acting(*seams)]

    def described(self, *seams: Seam) -> dict[str, str]:
        """Returns what is written down of who acts at some seams; of no one, that all is plain fine-tuning."""
        acting = self._acting(*seams) or [Method("sft", "plain fine-tuning", "control")]
        told = {"method": "name", **{name: name for name in ("title", "kind", "citation", "link")}}
        return {name: " + ".join(filter(None, (getattr(part, of) for part in acting))) for name, of in told.items()}

    def constants(self, given: Mapping[str, Any], *seams: Seam) -> dict[str, Any]:
        """Returns those of the method's own constants that matter at some seams."""
        known = {name for part in self._acting(*seams) for kind in part.own_settings for name in kind.model_fields}
        return {name: value for name, value in given.items() if name in known}

    def _acting(self, *seams: Seam) -> list[Method]:
        return [part for part in self.parts or (self,) if set(seams) & set(part.seams)]

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
            own_constants(kind, given)

    def weigh(self, inputs: WeighInputs) -> Weighing:
        """Weighs the rows; a method that does not, weighs all alike. The truth reaches only those that need it.

        Raises:
            ConfigError: The inputs lack what the method needs.
            DataError: They cannot be used.
        """
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
            editor = self.editor
            processes.on_main(lambda: editor(EditInputs(result.adapter, inputs)))
        return result
