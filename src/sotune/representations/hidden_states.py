"""From token rows to vectors: one forward pass, read at several layers and in several ways."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sotune.errors import ConfigError

PaddingSide = Literal["left", "right"]
Pooling = Literal["last", "completion_mean", "completion_minus_prompt", "prompt_and_completion"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""How a row's hidden states become one vector; the paper's first (§4.1)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read off a forward pass.

    Attributes:
        layer: Whose output: 0 the embeddings, 1 to L the layers; the last is taken after the final norm.
        pooling: ``last``, the last learned token; ``completion_mean``, the mean over the tokens of all learned turns,
            the template's end of turn among them; ``completion_minus_prompt``, that mean less the state of the last
            token before the last turn, from which the model would begin its own answer; ``prompt_and_completion``, the
            mean over the tokens before the last turn that are not learned, and the completion's mean, joined: a vector
            of twice the width, whose first half knows nothing of the answer.
    """

    layer: int
    pooling: Pooling


class TokenRow(NamedTuple):
    """Token ids of a row, and the ranges of them that are learned, at least one."""

    ids: Sequence[int]
    learned: Sequence[tuple[int, int]]


class TokenBatch(NamedTuple):
    """Rows as a rectangle of tokens.

    Attributes:
        input_ids: Token ids, ``[k, t]``, int64.
        attention_mask: 1 for a token, 0 for padding, ``[k, t]``, int64.
        completion: Which tokens are learned, ``[k, t]``, bool.
        last: Position of each row's last learned token, ``[k]``.
        last_of_prompt: Position of the last token before the last learned turn, ``[k]``; of the row's first where none
            stands before it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion: Tensor
    last: Tensor
    last_of_prompt: Tensor

    @property
    def unmasked(self) -> bool:
        """Whether no row has padding."""
        return bool(self.attention_mask.all())

    @property
    def pads_right(self) -> bool:
        """Whether every row begins with a token."""
        return bool(self.attention_mask[:, 0].all())

    @property
    def prompt(self) -> Tensor:
        """Which tokens were given before the last turn, ``[k, t]``, bool; a row's first is not among them.

        Models attend to the first token whatever it is, and its state is of another size than all others.
        """
        position = self.attention_mask.cumsum(dim=1) - 1
        before = torch.arange(self.input_ids.shape[1], device=position.device) <= self.last_of_prompt[:, None]
        return before & (position > 0) & self.attention_mask.bool() & ~self.completion

    def to(self, device: torch.device) -> TokenBatch:
        """Returns the batch on a device."""
        return TokenBatch(*(tensor.to(device) for tensor in self))


def pad_batch(rows: Sequence[TokenRow], *, padding_side: PaddingSide, pad_token_id: int) -> TokenBatch:
    """Pads rows to a rectangle as wide as the longest."""
    width = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    completion = torch.zeros_like(input_ids, dtype=torch.bool)
    last, last_of_prompt = [], []
    for i, (ids, learned) in enumerate(rows):
        start = width - len(ids) if padding_side == "left" else 0
        end = start + len(ids)
        input_ids[i, start:end] = torch.tensor(ids, dtype=torch.int64)
        attention_mask[i, start:end] = 1
        for first, after in learned:
            completion[i, start + first : start + after] = True
        last.append(start + learned[-1][1] - 1)
        last_of_prompt.append(start + max(learned[-1][0] - 1, 0))
    return TokenBatch(input_ids, attention_mask, completion, torch.tensor(last), torch.tensor(last_of_prompt))


def _states_at(hidden_states: Tensor, positions: Tensor) -> Tensor:
    return hidden_states[torch.arange(len(positions), device=positions.device), positions].float()


def _last(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    return _states_at(hidden_states, batch.last)


def _completion_mean(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    # Padding may hold NaN, which a product with 0 would keep.
    kept = hidden_states.float().masked_fill(~batch.completion[:, :, None], 0)
    return kept.sum(dim=1) / batch.completion.sum(dim=1)[:, None]


def _completion_minus_prompt(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    return _completion_mean(hidden_states, batch) - _states_at(hidden_states, batch.last_of_prompt)


def _prompt_and_completion(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    asked = batch.prompt
    kept = hidden_states.float().masked_fill(~asked[:, :, None], 0)
    prompt_mean = kept.sum(dim=1) / asked.sum(dim=1).clamp(min=1)[:, None]
    return torch.cat([prompt_mean, _completion_mean(hidden_states, batch)], dim=1)


_POOL: Mapping[Pooling, Callable[[Tensor, TokenBatch], Tensor]] = {
    "last": _last,
    "completion_mean": _completion_mean,
    "completion_minus_prompt": _completion_minus_prompt,
    "prompt_and_completion": _prompt_and_completion,
}


def read_hidden_states(
    decoder: torch.nn.Module, batch: TokenBatch, readings: Sequence[Reading], *, n_layers: int
) -> tuple[Tensor, ...]:
    """Runs one forward pass and reads vectors off it, ``[k, d]`` float32 for each reading.

    Hidden states are pooled as they appear, so that never more than one layer's are held, and layers after the deepest
    that is read are not run.

    Args:
        decoder: A model without its head.
        batch: The rows, padded on either side.
        readings: What is read, at least one.
        n_layers: Number of layers L of the decoder.

    Raises:
        ConfigError: A middle layer is read of a model whose layers cannot be found.
    """
    masked = not (batch.pads_right and (batch.unmasked or _is_causal(decoder)))  # decided before it is moved
    batch = batch.to(next(decoder.parameters()).device)
    found: dict[Reading, Tensor] = {}
    deepest = max(reading.layer for reading in readings)

    def read(layer: int, hidden_states: Tensor) -> None:
        for reading in readings:
            if reading.layer == layer:
                found[reading] = _POOL[reading.pooling](hidden_states, batch)
        if layer == deepest:
            raise _Reached

    inner = {reading.layer for reading in readings if reading.layer < n_layers}
    with _told_inputs(decoder, inner, n_layers, read), contextlib.suppress(_Reached):
        output = decoder(input_ids=batch.input_ids, **_attention(batch, masked=masked), use_cache=False)
        if deepest == n_layers:
            read(n_layers, output.last_hidden_state)
    if any(reading not in found for reading in readings):
        raise ConfigError("this architecture does not run its layers in order; use layer -1")
    return tuple(found[reading] for reading in readings)


def _attention(batch: TokenBatch, *, masked: bool) -> dict[str, Tensor | None]:
    """Returns mask and positions: none where no token that counts can see padding, which is faster."""
    if not masked:
        return {"attention_mask": None}
    # Counted over tokens: under left padding the first token is still at position 0.
    return {
        "attention_mask": batch.attention_mask,
        "position_ids": (batch.attention_mask.cumsum(dim=1) - 1).clamp(min=0),
    }


def _is_causal(decoder: torch.nn.Module) -> bool:
    """Tells whether no token sees what comes after it."""
    config = getattr(decoder, "config", None)
    return getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)


class _Reached(Exception):
    """Ends a forward pass at the deepest layer that is read."""


@contextlib.contextmanager
def _told_inputs(
    decoder: torch.nn.Module, layers: set[int], n_layers: int, read: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Calls ``read(layer, hidden_states)`` with what enters each of some layers: the output of the one before."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda _, args, kwargs: read(layer, args[0] if args else kwargs["hidden_states"])

    with contextlib.ExitStack() as hooks:
        for layer in sorted(layers):
            module = _layers(decoder, n_layers)[layer]
            hooks.callback(module.register_forward_pre_hook(hook(layer), with_kwargs=True).remove)
        yield


def _layers(decoder: torch.nn.Module, n_layers: int) -> Any:
    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return module
    raise ConfigError(f"no list of {n_layers} layers was found in {type(decoder).__name__}; use layer -1")
