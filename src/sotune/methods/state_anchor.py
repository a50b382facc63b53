"""State anchor: SBR with a strength that does not depend on the model's scale.

``loss + α·mean((h − h_0)²) / mean(h_0²)``: the shift of the state at the end of a risky prompt as a share of the state
itself, so that α means the same for every model and layer norm. Some of the prompts are looked at in each step, where
SBR looks at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.sbr import AnchorStates, prompt_ids
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.training_rows import draw_in_passes


class StateAnchorSettings(StageSettings):
    """State anchor: its own constants."""

    anchor_strength: float = Field(50.0, ge=0, description="Strength of the anchor, for states of mean square 1.")
    anchor_prompts: int = Field(64, ge=1, description="How many harmful prompts are held.")
    anchored_per_step: int = Field(16, ge=1, description="How many of them an optimizer step looks at.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the anchor.

    Raises:
        SotuneError: Training diverged.
    """
    tools, own = inputs.tools, inputs.own(StateAnchorSettings)
    prompts = prompt_ids(inputs.harmful_reference[: own.anchor_prompts], tools.renderer)
    change = AnchorShares(
        prompts,
        pad_token_id=tools.renderer.tokenizer.pad_token_id,
        alpha=own.anchor_strength,
        n_each=own.anchored_per_step,
        seed=tools.training.seed,
    )
    return train_weighted(inputs, change=change)


class AnchorShares(AnchorStates):
    """Adds ``α·mean((h − h_0)²) / mean(h_0²)`` over some of the prompts to the loss of each step.

    Args:
        prompts: As of `AnchorStates`.
        pad_token_id: Likewise.
        alpha: α, ≥ 0.
        n_each: Prompts of a step.
        seed: Draws them.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], *, pad_token_id: int, alpha: float, n_each: int, seed: int
    ) -> None:
        super().__init__(prompts, pad_token_id=pad_token_id, alpha=alpha)
        self._n_each, self._seed = n_each, seed

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"relative {super().name} each={self._n_each}"

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``α·mean((h − h_0)²) / mean(h_0²)``, the first mean over the prompts of the step."""
        drawn = draw_in_passes(self._n_each, of=len(self._before), seed=self._seed, step=step)
        shift = torch.nn.functional.mse_loss(self.states(model, drawn), self._before[drawn])
        return self._alpha * shift / (self._before**2).mean()


METHODS = (
    Method(
        "state_anchor",
        "state anchor",
        kind="ours",
        citation="Lu et al., Safety anchor: Defending harmful fine-tuning via geometric bottlenecks (ICML 2026)",
        link="https://arxiv.org/abs/2605.05995",
        trainer=train,
        own_settings=(StateAnchorSettings,),
    ),
)
