"""KL: on risky prompts, and on a few harmless ones, the model stays close to the aligned one that it was.

Not the method of one paper, but what several come to: ``loss + β·KL(p_0(· | x, y_<t) ‖ p(· | x, y_<t))``, averaged over
the tokens of y, the greedy answer of p_0, the model before fine-tuning. Prompts are the first of the harmful reference
and a few of the safe anchor; some of them are drawn for each step. It needs no data that a filter does not have, keeps
every row, and costs two more passes over a few short answers a step. p_0 is the model with its adapter off, so that no
second one is held in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import own_refusals
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange
from sotune.training.loss import IGNORE_INDEX, shift_labels
from sotune.training.output_layer import compute_logits
from sotune.training.training_rows import RowBatches, generator_of, load_equal_rows


class KlSettings(StageSettings):
    """KL: its own constants."""

    coefficient: float = Field(1.0, ge=0, description="Strength of the term, beta.")
    risky_prompts: int = Field(48, ge=1, description="How many prompts of the harmful reference are held.")
    harmless_prompts: int = Field(16, ge=0, description="How many prompts of the safe anchor are held.")
    answer_tokens: int = Field(24, ge=1, description="Tokens of an answer: a refusal is decided in its first words.")
    prompts_per_step: int = Field(4, ge=1, description="How many of them each optimizer step looks at.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the anchor.

    Raises:
        DataError: The model answers none of the prompts.
        SotuneError: Training diverged.
    """
    tools, own = inputs.tools, inputs.own(KlSettings)
    rows = [*inputs.harmful_reference[: own.risky_prompts], *inputs.safe_anchor[: own.harmless_prompts]]
    asked = [replace(row, id=f"kept-close-{number:03d}") for number, row in enumerate(rows)]  # two sets may share ids
    answered = own_refusals(tools, asked, most_tokens=own.answer_tokens)
    change = StayClose(
        load_equal_rows(answered, tools.model, tools.training),
        coefficient=own.coefficient,
        n_each=own.prompts_per_step,
        seed=tools.training.seed,
    )
    return train_weighted(inputs, change=change)


class StayClose(StepChange):
    """Adds ``β·KL(p_0 ‖ p)`` on some answers to the loss of each step.

    Args:
        rows: Prompts with the answers of p_0.
        coefficient: β, ≥ 0.
        n_each: Answers of a step.
        seed: Draws them.
    """

    def __init__(self, rows: RowBatches, *, coefficient: float, n_each: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._coefficient, self._n_each = coefficient, min(n_each, len(rows.rows))

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"kl beta={self._coefficient} rows={len(self._rows.rows)} each={self._n_each}"

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``β·KL``, the mean over the tokens of the answers that are drawn for the step."""
        drawn = self._rows.take(self._drawn(step), next(model.parameters()).device)
        asked = {name: drawn[name] for name in ("input_ids", "attention_mask")}
        predicts = shift_labels(drawn["labels"]) != IGNORE_INDEX
        with torch.no_grad(), getattr(model, "module", model).disable_adapter():
            before = compute_logits(model, asked, predicts).float().log_softmax(dim=-1)
        after = compute_logits(model, asked, predicts).float().log_softmax(dim=-1)
        divergence: Tensor = (before.exp() * (before - after)).sum(dim=-1).mean()
        return self._coefficient * divergence

    def _drawn(self, step: int) -> list[int]:
        generator = generator_of(self._seed, step)
        return torch.randperm(len(self._rows.rows), generator=generator)[: self._n_each].tolist()


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
