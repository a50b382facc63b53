"""What a change to the training step costs, in tokens: all that the model read while training, beside the rows'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sotune.training.change import StepChange

EXTRA_TOKENS = "extra_tokens"
"""The figure: tokens that the model read besides those of the rows, in units of these. What was asked of another copy
of the model before training is not in it. With several processes both are those of one."""


class Counted(StepChange):
    """A change, and a count of the tokens that pass through the model from its start to its end, without padding.

    Args:
        change: Does all the rest.
    """

    def __init__(self, change: StepChange) -> None:
        self._change = change
        self._all = self._of_rows = 0

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return self._change.name

    def start(self, model: Any) -> None:
        """Begins to count."""
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._hook = causal.register_forward_pre_hook(self._count, with_kwargs=True)
        self._change.start(model)

    def _count(self, _module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        self._all += 0 if ids is None else _n_tokens(ids, named.get("attention_mask"))

    def batch(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Counts a batch of rows."""
        found = self._change.batch(batch, step)
        self._of_rows += _n_tokens(found["input_ids"], found.get("attention_mask"))
        return found

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns the change's term."""
        return self._change.penalty(model, step)

    def join(self, task: Sequence[Tensor], own: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the step's gradient as the change makes it."""
        return self._change.join(task, own)

    def notes(self) -> Mapping[str, float]:
        """Returns the change's notes."""
        return self._change.notes()

    def state(self) -> Mapping[str, float | Tensor]:
        """Returns what the change remembers, and the counts."""
        return {**self._change.state(), "tokens": self._all, "tokens_of_rows": self._of_rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes both up again."""
        self._all, self._of_rows = int(state["tokens"]), int(state["tokens_of_rows"])
        self._change.restore(state)

    def finish(self, model: Any) -> Mapping[str, float]:
        """Returns the change's figures, and the share."""
        figures = self._change.finish(model)
        self._hook.remove()
        return {**figures, EXTRA_TOKENS: self._all / self._of_rows - 1}


def _n_tokens(ids: Tensor, mask: Tensor | None) -> int:
    """Counts the tokens of a batch, however it is padded, cut or packed."""
    return int(mask.sum()) if mask is not None and mask.shape == ids.shape else ids.numel()
