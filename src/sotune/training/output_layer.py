"""The output layer on labeled tokens alone, a bounded number at a time.

With a vocabulary of 128,000 the logits of one row of 2,048 tokens take a gigabyte in float32, and most of a prompt's
are never looked at. A causal LM of transformers is a base model, an output layer, and what its forward does to logits
(Gemma caps them, Cohere and Granite scale them). Here the base model runs within the model's own forward, so that
adapters, wrappers for several devices and autocast see an ordinary call; its states are taken where a label is
predicted. Their logits then come from that same forward once more, with a base model that only hands the states over:
each architecture treats its logits as it always does. A model that is built otherwise computes all its logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sotune.training.loss import CHUNK_ELEMENTS, IGNORE_INDEX, compute_token_losses, shift_labels, take_nll_gradient


def compute_model_losses(model: Any, batch: Mapping[str, Any], labels: Tensor) -> Tensor:
    """Computes what `compute_token_losses` would from a model's logits, without holding them.

    While the output layer is frozen, the gradient of each token's loss with respect to its state is computed with the
    loss, and one vector a token is kept for the backward pass; else the logits are computed again there.

    Args:
        model: A causal LM, perhaps with adapters and wrapped for several devices.
        batch: What it is called with, without labels.
        labels: Token ids ``[rows, length]``, not shifted; `IGNORE_INDEX` where there is no loss.

    Returns:
        float32 ``[rows, length]``: the loss of the token at place t stands at t − 1.
    """
    losses: list[Tensor] = []
    targets = shift_labels(labels)
    labeled = targets != IGNORE_INDEX

    def score(states: Tensor, head: _Head) -> Tensor:
        found = head.losses(states[labeled], targets[labeled])
        losses.append(found.new_zeros(labels.shape).masked_scatter(labeled, found))
        return states[:, :1]

    outputs = _call(model, batch, labels.shape, score)
    return losses[0] if losses else compute_token_losses(outputs["logits"], labels)


def keep_states(model: Any, batch: Mapping[str, Any], where: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns something small for each of some tokens, and what makes their logits of it without the base model.

    It is the state that the output layer reads; of a model that is built otherwise, the logits themselves.

    Args:
        model: As in `compute_model_losses`.
        batch: What it is called with.
        where: Which tokens, bool ``[rows, length]``.
    """
    kept: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []

    def take(states: Tensor, head: _Head) -> Tensor:
        kept.append((states[where], head.logits))
        return states[:, :1]

    outputs = _call(model, batch, where.shape, take)
    return kept[0] if kept else (outputs["logits"][where], lambda logits: logits)


def _call(model: Any, batch: Mapping[str, Any], shape: torch.Size, use: Callable[[Tensor, _Head], Tensor]) -> Any:
    """Calls a model, with ``use`` between its base model and its output layer where the two can be told apart."""
    from accelerate.utils import extract_model_from_parallel, is_compiled_module

    causal = extract_model_from_parallel(model)
    causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    base = getattr(causal, getattr(causal, "base_model_prefix", ""), None)
    if not isinstance(base, nn.Module) or is_compiled_module(model):
        return model(**batch)
    own: Any = base.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        states = getattr(output, "last_hidden_state", None)
        if states is None or states.shape[:2] != shape:
            return output
        return type(output)(last_hidden_state=use(states, _Head(causal, base, type(output))))

    with _forward_of(base, forward):
        return model(**batch)


@contextlib.contextmanager
def _forward_of(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Puts another forward in place of a module's own."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


class _Head:
    """What a causal LM does after its base model."""

    def __init__(self, causal: Any, base: nn.Module, output: type) -> None:
        self._causal, self._base, self._output = causal, base, output
        parts = [part for part in causal.children() if part is not base]
        found = {id(parameter): parameter for part in parts for parameter in part.parameters()}
        self._learned = [parameter for parameter in found.values() if parameter.requires_grad]

    def losses(self, states: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of each state's token, float32 ``[tokens]``."""
        if not torch.is_grad_enabled():
            return torch.cat([self._score(*part)[0] for part in self.parts(states, targets)])
        found: Tensor = _StateLosses.apply(self, states, targets, *self._learned)  # type: ignore[no-untyped-call]
        return found

    def parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Cuts tensors of one entry a token so that the logits of a part have a bounded size."""
        size = max(1, CHUNK_ELEMENTS // self._causal.config.get_text_config().vocab_size)
        return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)

    def logits(self, states: Tensor) -> Tensor:
        """Computes the logits of some states, ``[tokens, vocabulary]``."""
        row = states[None]
        with _forward_of(self._base, lambda *_, **__: self._output(last_hidden_state=row)):
            logits: Tensor = self._causal.forward(inputs_embeds=row)["logits"]
        return logits[0]

    def learn(
        self, states: Tensor, targets: Tensor, shares: Tensor | None = None, *, learned: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """Computes the losses of some states, and the gradients of their sum: of the states, and of more.

        Args:
            states: ``[tokens, width]``.
            targets: Their tokens.
            shares: What each loss counts in the sum; ``None`` for 1.
            learned: What else.
        """
        with torch.enable_grad():
            states = states.detach().requires_grad_()
            losses, gradient, logits = self._score(states, targets)
        if shares is not None:
            gradient.mul_(shares[:, None])
        of_states, *more = torch.autograd.grad(logits, (states, *learned), gradient.to(logits), allow_unused=True)
        return losses, of_states, tuple(more)

    def _score(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns losses, their gradient with respect to the logits, and the logits' place in the graph."""
        logits = self.logits(states)
        scores = logits.detach().float()  # of float32 logits it takes the place
        return take_nll_gradient(scores, targets), scores, logits


class _StateLosses(torch.autograd.Function):
    """The losses of states, of whose logits no more than a part are ever held.

    A token's loss depends on its own state alone. While the output layer is frozen, the gradient with respect to the
    state is therefore taken with the loss, and one vector a token is kept. For one that learns, what each token counts
    must be known first; its logits are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, head: _Head, states: Tensor, targets: Tensor, *learned: Tensor) -> Tensor:
        ctx.head, ctx.learned, ctx.autocast = head, learned, _autocast_of(states)
        if learned:
            ctx.save_for_backward(states, targets)
            return head.losses(states, targets)
        losses, gradients = [], []
        for part in head.parts(states, targets):
            found, of_part, _ = head.learn(*part)
            losses.append(found)
            gradients.append(of_part)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.learned:
            (gradient,) = ctx.saved_tensors
            return None, (grad_losses[:, None] * gradient).to(gradient), None
        of_states: list[Tensor] = []
        of_learned: list[Tensor | None] = [None] * len(ctx.learned)
        with ctx.autocast:
            for part in ctx.head.parts(*ctx.saved_tensors, grad_losses):
                _, of_part, more = ctx.head.learn(*part, learned=ctx.learned)
                of_states.append(of_part)
                of_learned = [_added(total, now) for total, now in zip(of_learned, more, strict=True)]
        return None, torch.cat(of_states), None, *of_learned


def _autocast_of(states: Tensor) -> torch.autocast:
    """Returns the context that computes as the forward pass does: autograd leaves autocast before it goes back."""
    kind = states.device.type
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))


def _added(total: Tensor | None, now: Tensor | None) -> Tensor | None:
    return now if total is None or now is None else total.add_(now)
