"""SBR: the state in which the model refuses is anchored.

Lu et al., *Safety anchor: Defending harmful fine-tuning via geometric bottlenecks* (ICML 2026,
https://arxiv.org/abs/2605.05995): ``loss + α·mean((h(x) − h_0(x))²)`` with h the last layer's state at the end of a
harmful prompt, before the answer, and h_0 the same before fine-tuning; a few prompts are enough.

Released script: α = 50, eight prompts, LoRA on all linear layers. Here α and the number are theirs; the prompts are the
first of the harmful reference; the LoRA shape is the budget's. Like theirs, the state is taken after the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.models import evaluating
from sotune.records import Record
from sotune.rendering import Renderer
from sotune.representations.hidden_states import TokenRow, pad_batch
from sotune.settings import StageSettings
from sotune.training import TrainResult
from sotune.training.change import StepChange


class SbrSettings(StageSettings):
    """SBR: its own constants."""

    alpha: float = Field(50.0, ge=0, description="Strength of the anchor (released script).")
    prompts: int = Field(8, ge=1, description="How many harmful prompts are held (released script).")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains with the anchor.

    Raises:
        SotuneError: Training diverged.
    """
    tools, own = inputs.tools, inputs.own(SbrSettings)
    prompts = prompt_ids(inputs.harmful_reference[: own.prompts], tools.renderer)
    change = AnchorStates(prompts, pad_token_id=tools.renderer.tokenizer.pad_token_id, alpha=own.alpha)
    return train_weighted(inputs, change=change)


def prompt_ids(rows: Sequence[Record], renderer: Renderer) -> list[list[int]]:
    """Returns the tokens of each row's prompt, up to where the answer would begin."""
    return [renderer.prompt_tokens(row.prompt, row.tools)[-renderer.max_length :] for row in rows]


class AnchorStates(StepChange):
    """Adds ``α·mean((h − h_0)²)`` over some prompts to the loss.

    Args:
        prompts: Token ids of each.
        pad_token_id: Any id; masked.
        alpha: α, ≥ 0.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], *, pad_token_id: int, alpha: float) -> None:
        rows = [TokenRow(ids, [(0, len(ids))]) for ids in prompts]
        batch = pad_batch(rows, padding_side="right", pad_token_id=pad_token_id)
        self._ids, self._mask, self._last = batch.input_ids, batch.attention_mask, batch.last
        self._alpha = alpha
        self._before = torch.empty(0)

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"sbr alpha={self._alpha} prompts={self._ids.tolist()}"

    def start(self, model: Any) -> None:
        """Notes the states before the first step."""
        with evaluating(model):
            self._before = self.states(model)

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns ``α·mean((h − h_0)²)``, the mean over prompts and width."""
        return self._alpha * torch.nn.functional.mse_loss(self.states(model), self._before)

    def states(self, model: Any, positions: Sequence[int] | None = None) -> Tensor:
        """Returns the last layer's state at the end of each prompt, or of some, float32, ``[prompts, d]``."""
        device = next(model.parameters()).device
        chosen = list(range(len(self._last)) if positions is None else positions)
        ids, mask, last = (part[chosen].to(device) for part in (self._ids, self._mask, self._last))
        outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        states: Tensor = outputs.hidden_states[-1][torch.arange(len(last)), last]
        return states.float()


METHODS = (
    Method(
        "sbr",
        "SBR",
        citation="Lu et al., Safety anchor: Defending harmful fine-tuning via geometric bottlenecks (ICML 2026)",
        link="https://arxiv.org/abs/2605.05995",
        trainer=train,
        own_settings=(SbrSettings,),
    ),
)
