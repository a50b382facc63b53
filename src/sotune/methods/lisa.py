"""Lisa: steps on the task and steps on refusals take turns, each held near where the other left off.

Huang et al., *Lisa: Lazy safety alignment against harmful fine-tuning* (NeurIPS 2024,
https://arxiv.org/abs/2405.18641): bi-state optimization with the proximal term ``ρ/2·‖θ − θ_other‖²``, where θ_other
are the adapter's weights when the other state ended.

Released script: ρ = 1, 100 alignment steps and 900 task steps in turn, 20 turns in all, 10,000 alignment rows, the
proximal term switched on after a tenth of the steps. Here the same shares of the budget's steps, so that a turn is a
20th of them and a tenth of a turn is alignment; alignment rows are up to 200 safety pairs. Alignment steps take the
place of task steps; they do not come on top. The norm counts the adapter alone, as theirs does, and its scale differs
with the size of the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import safety_pairs
from sotune.models import trained_parameters
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange
from sotune.training.progress import count_steps
from sotune.training.training_rows import RowBatches, build_equal_rows, generator_of

_TURNS, _ALIGNMENT_SHARE, _PROXIMAL_AFTER = 20, 0.1, 0.1
_MOST_PAIRS = 200


class LisaSettings(StageSettings):
    """Lisa: its own constants."""

    rho: float = Field(1.0, ge=0, description="Strength of the proximal term (released script).")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains in turns.

    Raises:
        DataError: There are no refusals or no rows to train on.
        SotuneError: Training diverged.
    """
    tools, settings = inputs.tools, inputs.tools.training
    pairs = safety_pairs(tools, inputs.harmful_reference, most=_MOST_PAIRS)
    change = TakeTurns(
        build_equal_rows(pairs, tools.renderer),
        n_steps=count_steps(len(inputs.records), settings),
        rho=inputs.own(LisaSettings).rho,
        seed=settings.seed,
    )
    return train_weighted(inputs, change=change)


class TakeTurns(StepChange):
    """Swaps the batch in alignment steps, and pulls the adapter towards where the other state left it.

    Args:
        rows: The alignment rows.
        n_steps: Steps in all.
        rho: ρ, ≥ 0.
        seed: Draws the alignment rows of each step.
    """

    def __init__(self, rows: RowBatches, *, n_steps: int, rho: float, seed: int) -> None:
        self._rows, self._rho, self._seed = rows, rho, seed
        self._turn = max(2, round(n_steps / _TURNS))
        self._alignment = max(1, round(self._turn * _ALIGNMENT_SHARE))
        self._proximal_from = math.ceil(n_steps * _PROXIMAL_AFTER)
        self._left: dict[bool, list[Tensor]] = {}
        self._state: bool | None = None
        self._drawn = 0

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        rows = sha256_json([row.input_ids.tolist() for row in self._rows.rows])[:16]
        return f"lisa rho={self._rho} turn={self._turn} alignment={self._alignment} rows={rows}"

    def aligns(self, step: int) -> bool:
        """Returns whether a step is one on refusals; every turn begins with them."""
        return step % self._turn < self._alignment

    def start(self, model: Any) -> None:
        """Both states begin where the model is."""
        self._left = {state: _copy(model) for state in (True, False)}

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch, or one of the alignment rows with as many rows."""
        if not self.aligns(step):
            return batch
        generator = generator_of(self._seed, self._drawn)
        self._drawn += 1
        chosen = torch.randint(len(self._rows.rows), (len(batch["labels"]),), generator=generator).tolist()
        return self._rows.take(chosen, batch["labels"].device)

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``ρ/2·‖θ − θ_other‖²``; 0 in the first tenth of the steps."""
        state = self.aligns(step)
        if self._state is not None and state != self._state:
            self._left[self._state] = _copy(model)
        self._state = state
        if step < self._proximal_from:
            return 0.0
        pairs = zip(trained_parameters(model).values(), self._left[not state], strict=True)
        return self._rho / 2 * torch.stack([((now - then) ** 2).sum() for now, then in pairs]).sum()

    def state(self) -> Mapping[str, float | Tensor]:
        """Returns where each state left off, which of them is on, and how many batches were drawn."""
        left = {
            f"left/{state:d}/{place}": weight
            for state, weights in self._left.items()
            for place, weight in enumerate(weights)
        }
        return {**left, "drawn": self._drawn, "aligns": -1 if self._state is None else int(self._state)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes them up again."""
        for which, weights in self._left.items():
            for place, weight in enumerate(weights):
                weight.copy_(state[f"left/{which:d}/{place}"])
        self._drawn, self._state = int(state["drawn"]), None if state["aligns"] < 0 else bool(state["aligns"])


def _copy(model: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trained_parameters(model).values()]


METHODS = (
    Method(
        "lisa",
        "Lisa",
        citation="Huang et al., Lisa: Lazy safety alignment against harmful fine-tuning (NeurIPS 2024)",
        link="https://arxiv.org/abs/2405.18641",
        trainer=train,
        own_settings=(LisaSettings,),
    ),
)
