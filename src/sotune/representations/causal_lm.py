"""The frozen language model as encoder: the last token's hidden state at one layer (paper, §4.1 and §5.1)."""

from __future__ import annotations

import array
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.errors import ConfigError, SotuneError
from sotune.models import ModelSpec, load_causal_lm, load_config, load_tokenizer, model_fingerprint
from sotune.records import Message, Record
from sotune.rendering import Template, render, render_prompt, tokenize
from sotune.representations.base import OnProgress, PreparedTexts, encode_records, keys_from_hex

PaddingSide = Literal["left", "right"]


class CausalLMEncoder:
    """Encodes records by any Hugging Face causal language model; its head is never run.

    The tokenizer and the configuration are loaded at once, the weights with the first batch: a run whose vectors are
    all cached never holds the model in memory.

    Args:
        spec: Which model.
        layer: Whose output: 0 the embeddings, 1 to L the layers, negative ones from the end, as in ``hidden_states``.
            The last (-1 or L) is taken after the final norm.
        template: How a record becomes text.
        max_length: Token limit of a record; the model's number of positions where that is smaller.
        batch_tokens: Tokens that one batch may hold, padding included.
        padding_side: Right suits every decoder, for what comes after a token cannot change it. Left gives the same
            vectors where the model heeds its attention mask and position ids.

    Raises:
        ConfigError: The model cannot be loaded, has no such layer, or lacks the chat template that was asked for.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        layer: int,
        template: Template,
        max_length: int,
        batch_tokens: int,
        padding_side: PaddingSide = "right",
    ) -> None:
        self.batch_tokens = batch_tokens
        self._spec, self._template, self._padding_side = spec, template, padding_side
        self._tokenizer = load_tokenizer(spec)
        # A missing chat template is an error now, not at the first row.
        render_prompt((Message("user", "Hello"),), template, self._tokenizer)
        config = load_config(spec).get_text_config()
        self.dimension = int(config.hidden_size)
        self._n_layers = int(config.num_hidden_layers)
        self._layer = _resolve_layer(layer, self._n_layers)
        self._max_length = min(max_length, getattr(config, "max_position_embeddings", None) or max_length)

    @functools.cached_property
    def description(self) -> Mapping[str, Any]:
        """All that the vectors depend on."""
        return {
            "encoder": "causal-lm",
            "name": self._spec.name,
            "revision": self._spec.revision,
            "model": model_fingerprint(self._spec),
            "layer": self._layer,
            "pooling": "last-token",
            "template": self._template,
            "max_length": self._max_length,
            "padding_side": self._padding_side,
            "dtype": self._spec.dtype,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the description; together with a text's key it names a vector."""
        # A model is what it holds, not where it lies: a copied folder keeps its vectors.
        content = {key: value for key, value in self.description.items() if key not in ("name", "revision")}
        return sha256_json(content)[:16]

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the record's rendered text, in hexadecimal.

        The prompt's part is hashed beside the whole, since where the completion begins decides what an over-long row
        loses.
        """
        text = render(record, self._template, self._tokenizer)
        return sha256_json([text.prompt, text.full])

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records.

        Raises:
            DataError: A record's completion has no token of its own.
        """
        tokens, truncated = _TokenTable(), []
        for record in records:
            row = tokenize(record, self._tokenizer, template=self._template, max_length=self._max_length)
            tokens.append(row.input_ids)
            truncated.append(row.truncated)
        return PreparedTexts(
            ids=tuple(record.id for record in records),
            keys=keys_from_hex([self.key(record) for record in records]),
            lengths=tokens.lengths(),
            truncated=np.array(truncated, dtype=np.bool_),
            inputs=tokens,
        )

    def encode_batch(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """Encodes one batch of token ids, [k, d] float32 on the CPU.

        Raises:
            SotuneError: The device's memory does not hold the batch.
        """
        input_ids, attention_mask = pad_batch(
            inputs, padding_side=self._padding_side, pad_token_id=self._tokenizer.pad_token_id
        )
        try:
            with torch.inference_mode():
                states = last_token_states(
                    self._decoder, input_ids, attention_mask, layer=self._layer, n_layers=self._n_layers
                )
        except torch.OutOfMemoryError:
            raise SotuneError(
                f"a batch of {input_ids.shape[0]} rows and {input_ids.shape[1]} tokens does not fit the memory of "
                f"device {self._spec.device!r}; lower batch_tokens (it is {self.batch_tokens}) or max_length"
            ) from None
        return states.float().cpu()

    def encode(self, records: Sequence[Record], *, progress: OnProgress | None = None) -> Tensor:
        """Encodes records without a cache, [n, d] float32 on the CPU, in their order.

        Raises:
            DataError: There are no records, or a representation is not finite.
        """
        return encode_records(self, records, progress=progress)

    @functools.cached_property
    def _decoder(self) -> torch.nn.Module:
        """The text decoder without its head; in a multimodal model, the text part alone."""
        decoder: torch.nn.Module = load_causal_lm(self._spec, frozen=True).get_decoder()
        return decoder


def pad_batch(rows: Sequence[Sequence[int]], *, padding_side: PaddingSide, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pads token ids to a rectangle.

    Returns:
        Token ids and attention mask (1 for a token, 0 for padding), both [k, longest row], int64.
    """
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        input_ids[i, place] = torch.tensor(row, dtype=torch.int64)
        attention_mask[i, place] = 1
    return input_ids, attention_mask


def last_token_states(
    decoder: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor, *, layer: int, n_layers: int
) -> Tensor:
    """Returns the hidden state of each row's last token, [k, d], whichever side the padding is on.

    Args:
        decoder: A model without its head.
        input_ids: Token ids, [k, t].
        attention_mask: 1 for a token, 0 for padding, [k, t].
        layer: Whose output, 0 to ``n_layers``; the last is taken after the final norm.
        n_layers: Number of layers of the decoder.
    """
    device = next(decoder.parameters()).device
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        # Counted over tokens: under left padding the first token is still at position 0.
        "position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0),
        "use_cache": False,
    }
    if layer == n_layers:
        hidden_states = decoder(**inputs).last_hidden_state
    else:
        hidden_states = _input_of_layer(decoder, _layers(decoder, n_layers)[layer], inputs)
    positions = torch.arange(input_ids.shape[1], device=device)
    last = (attention_mask * positions).argmax(dim=1)
    states: Tensor = hidden_states[torch.arange(len(last), device=device), last]
    return states


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked for."""

    def __init__(self, hidden_states: Tensor) -> None:
        self.hidden_states = hidden_states


def _input_of_layer(decoder: torch.nn.Module, layer: torch.nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Runs the decoder up to a layer and returns what enters it; later layers cost nothing."""

    def stop(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    hook = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        decoder(**inputs)
    except _Reached as reached:
        return reached.hidden_states
    finally:
        hook.remove()
    raise ConfigError("this architecture does not run its layers in order; use layer -1")


def _layers(decoder: torch.nn.Module, n_layers: int) -> torch.nn.ModuleList:
    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return module
    raise ConfigError(f"no list of {n_layers} layers was found in {type(decoder).__name__}; use layer -1")


def _resolve_layer(layer: int, n_layers: int) -> int:
    resolved = layer if layer >= 0 else n_layers + 1 + layer
    if not 0 <= resolved <= n_layers:
        raise ConfigError(
            f"layer {layer} does not exist: the model has {n_layers} layers; use 0 (the embeddings) to {n_layers}, "
            f"or -1 (the last) to {-n_layers - 1}"
        )
    return resolved


class _TokenTable(Sequence[Sequence[int]]):
    """Rows of token ids end to end: 4 bytes an id, where lists would take some 36."""

    def __init__(self) -> None:
        self._ids = array.array("i")
        self._ends = array.array("q", [0])

    def append(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        self._ends.append(len(self._ids))

    def lengths(self) -> NDArray[np.int64]:
        ends = np.array(self._ends, dtype=np.int64)
        return ends[1:] - ends[:-1]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: Any) -> Any:
        return self._ids[self._ends[row] : self._ends[row + 1]]
