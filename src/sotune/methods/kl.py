"""KL: on risky prompts, and on a few harmless ones, the model stays close to the aligned one that it was.

Not the method of one paper, but what several come to: ``loss + β·KL(p_0(· | x, y_<t) ‖ p(· | x, y_<t))``, averaged over
the tokens of y, the greedy answer of p_0, the model before fine-tuning. Prompts are the first of the harmful reference
and a few of the safe anchor; some of them are drawn for each step. It needs no data that a filter does not have, keeps
every row, and costs two more passes over a few short answers a step. p_0 is the model with its adapter off, so that no
second one is held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import own_refusals
from sotune.settings import StageSettings
from sotune.training.loss import IGNORE_INDEX

if TYPE_CHECKING:
    from sotune.training import TrainResult
    from sotune.training.training_rows import TrainingRow, WeightedCollator


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
    from sotune.models import load_tokenizer
    from sotune.training.training_rows import WeightedCollator, build_equal_rows

    tools, own = inputs.tools, inputs.own(KlSettings)
    tokenizer = load_tokenizer(tools.model)
    rows = [*inputs.harmful_reference[: own.risky_prompts], *inputs.safe_anchor[: own.harmless_prompts]]
    asked = [replace(row, id=f"kept-close-{number:03d}") for number, row in enumerate(rows)]  # two sets may share ids
    answered = own_refusals(tools, asked, most_tokens=own.answer_tokens)
    change = StayClose(
        build_equal_rows(answered, tokenizer, tools.training),
        WeightedCollator(pad_token_id=tokenizer.pad_token_id),
        coefficient=own.coefficient,
        n_each=own.prompts_per_step,
        seed=tools.training.seed,
    )
    return train_weighted(inputs, change=change)


class StayClose:
    """Adds ``β·KL(p_0 ‖ p)`` on some answers to the loss of each step.

    Args:
        rows: Prompts with the answers of p_0.
        collate: Makes batches of them.
        coefficient: β, ≥ 0.
        n_each: Answers of a step.
        seed: Draws them.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], collate: WeightedCollator, *, coefficient: float, n_each: int, seed: int
    ) -> None:
        self._rows, self._collate = rows, collate
        self._coefficient, self._n_each, self._seed = coefficient, min(n_each, len(rows)), seed

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"kl beta={self._coefficient} rows={len(self._rows)} each={self._n_each}"

    def start(self, model: Any) -> None:
        """Nothing to note: the model before is the model without its adapter."""

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch that is due."""
        return batch

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``β·KL``, the mean over the tokens of the answers that are drawn for the step."""
        device = next(model.parameters()).device
        drawn = self._collate([self._rows[i].features() for i in self._drawn(step)])
        asked = {name: drawn[name].to(device) for name in ("input_ids", "attention_mask")}
        predicts = torch.zeros_like(drawn["labels"], dtype=torch.bool)
        predicts[:, :-1] = drawn["labels"][:, 1:] != IGNORE_INDEX
        predicts = predicts.to(device)
        with torch.no_grad(), getattr(model, "module", model).disable_adapter():
            before = model(**asked)["logits"][predicts].float().log_softmax(dim=-1)
        after = model(**asked)["logits"][predicts].float().log_softmax(dim=-1)
        divergence: Tensor = (before.exp() * (before - after)).sum(dim=-1).mean()
        return self._coefficient * divergence

    def _drawn(self, step: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return torch.randperm(len(self._rows), generator=generator)[: self._n_each].tolist()


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
