"""KL: on risky prompts, and on a few harmless ones, the model stays close to the aligned one that it was.

Not the method of one paper, but what several come to: ``loss + β·KL(p_0(· | x, y_<t) ‖ p(· | x, y_<t))``, averaged over
the tokens of y, the greedy answer of p_0, the model before fine-tuning. Prompts are the first of the harmful reference
and a few of the safe reference, or of the anchor where there is none; some of them are drawn for each step. It needs no
data that a filter does not have, keeps every row, and costs one more pass over a few short answers a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from sotune.methods.held_answers import HeldSets, held_sets
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.records import Record
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange

_ASKED_AGAIN = 48  # prompts of the safe reference that no step looks at, at least


class KlSettings(StageSettings):
    """KL: its own constants."""

    coefficient: float = Field(1.0, ge=0, description="Strength of the term, beta.")
    risky_prompts: int = Field(48, ge=1, description="How many prompts of the harmful reference are held.")
    harmless_prompts: int = Field(
        16, ge=0, description="How many prompts of the safe reference are held, of those that the model answers."
    )
    answer_tokens: int = Field(24, ge=1, description="Tokens of an answer: a refusal is decided in its first words.")
    prompts_per_step: int = Field(4, ge=1, description="How many of each kind an optimizer step looks at.")
    decay: float = Field(0.0, ge=0, description="How fast a token's share falls with its place in the answer.")


def ask_first(
    inputs: TrainInputs,
    harmless: Sequence[Record],
    own: KlSettings,
    *,
    more_risky: Sequence[Record] = (),
    model: Any = None,
) -> HeldSets:
    """Returns the answers that are held, those to some harmless prompts among them; see `held_sets`."""
    more = _ASKED_AGAIN if inputs.safe_reference else own.harmless_prompts // 2
    return held_sets(
        inputs,
        harmless[: own.harmless_prompts + more if own.harmless_prompts else 0],
        n_harmless=own.harmless_prompts,
        more_risky=more_risky,
        model=model,
        risky=own.risky_prompts,
        answer_tokens=own.answer_tokens,
        decay=own.decay,
    )


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the anchor.

    Raises:
        DataError: The model answers none of the prompts.
        SotuneError: Training diverged.
    """
    return train_close(inputs, StayClose)


def train_close(inputs: TrainInputs, how: type[StayClose]) -> TrainResult:
    """Trains with a change that looks at the answers of the model before fine-tuning; raises as `train` does."""
    own = inputs.own(KlSettings)
    change = how(
        ask_first(inputs, inputs.safe_reference or inputs.safe_anchor, own),
        coefficient=own.coefficient,
        n_each=own.prompts_per_step,
        seed=inputs.tools.training.seed,
    )
    return train_weighted(inputs, change=change)


class StayClose(StepChange):
    """Adds ``β·KL(p_0 ‖ p)`` on some answers to the loss of each step.

    Args:
        sets: Prompts with the answers of p_0.
        coefficient: β, ≥ 0.
        n_each: Answers of a step, of each kind.
        seed: Draws them.
        anchor: Strength at which the states are held too, whatever the drift is.
    """

    def __init__(self, sets: HeldSets, *, coefficient: float, n_each: int, seed: int, anchor: float = 0.0) -> None:
        self._sets, self._seed = sets, seed
        self._held = {name: held for name, held in (("risky", sets.risky), ("harmless", sets.harmless)) if held}
        self._coefficient, self._n_each = coefficient, n_each
        self._anchor = anchor
        self._notes: dict[str, float] = {}

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        held = " ".join(f"{name} {held.name}" for name, held in self._held.items())
        return f"kl beta={self._coefficient} anchor={self._anchor} {held} each={self._n_each}"

    def start(self, model: Any) -> None:
        """Keeps what the model would say before the first step."""
        for held in {**self._held, "unseen": self._sets.unseen}.values():
            if held is not None:
                held.start(model)

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``β·KL``, the sum over the kinds of prompts of the mean over the tokens of the answers drawn."""
        total: Tensor | float = 0.0
        for name, held in self._held.items():
            found = held.compare(model, held.drawn(self._n_each, seed=self._seed, step=step))
            self._notes[f"{name}_drift"] = now = float(found.drift.detach())
            total = total + self.strength(name, now) * found.drift + self._anchor * found.shift
        return total

    def strength(self, name: str, drift: float) -> float:
        """Returns what a kind of prompts counts in this step."""
        return self._coefficient

    def notes(self) -> Mapping[str, float]:
        """Returns the drift over the answers of the last step."""
        return dict(self._notes)

    def finish(self, model: Any) -> Mapping[str, float]:
        """Returns the drift over all answers, those to prompts that no step looked at among them, and refusals."""
        return {**self.measure(model), **self.refusals(model)}

    def refusals(self, model: Any) -> dict[str, float]:
        """Returns how many of the prompts that no step looked at are refused, before and now."""
        return self._sets.refuses.figures(model) if self._sets.refuses is not None else {}

    def measure(self, model: Any, names: Collection[str] = ()) -> dict[str, float]:
        """Returns the drift over all answers of each kind, as ``{kind}_drift``; or only those that are named."""
        sets = {f"{kind}_drift": held for kind, held in {**self._held, "unseen": self._sets.unseen}.items()}
        asked = {name: held for name, held in sets.items() if held is not None and (not names or name in names)}
        return {name: held.measure(model) for name, held in asked.items()}


METHODS = (
    Method(
        "kl",
        "KL to the aligned model",
        kind="ours",
        citation="Qi et al., Safety alignment should be made more than just a few tokens deep (ICLR 2025)",
        link="https://arxiv.org/abs/2406.05946",
        trainer=train,
        own_settings=(KlSettings,),
    ),
)
