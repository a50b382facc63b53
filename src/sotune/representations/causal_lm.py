"""The frozen language model as encoder: hidden states at some layer, pooled (paper, §4.1 and §5.1)."""

from __future__ import annotations

import array
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.errors import ConfigError
from sotune.models import ModelSpec, load_causal_lm, load_config, model_fingerprint
from sotune.records import Record
from sotune.rendering import RenderedText, load_renderer
from sotune.representations.encoder import Encoder, PreparedTexts, keys_from_hex
from sotune.representations.hidden_states import (
    POOLINGS,
    PaddingSide,
    Pooling,
    Reading,
    TokenRow,
    pad_batch,
    read_hidden_states,
)
from sotune.settings import RenderingSettings


class FrozenCausalLM:
    """Any Hugging Face causal language model with the way that it is fed; its head is never run.

    The tokenizer and the configuration are loaded at once, the weights with the first batch: a run whose vectors are
    all cached never holds the model in memory.

    Args:
        spec: Which model.
        rendering: How a record becomes tokens.
        batch_tokens: Tokens that one batch may hold, padding included.
        padding_side: Right suits every decoder, for what comes after a token cannot change it. Left gives the same
            vectors where the model heeds its attention mask and position ids.

    Raises:
        ConfigError: The model cannot be loaded, or lacks the chat template that was asked for.
    """

    def __init__(
        self,
        spec: ModelSpec,
        rendering: RenderingSettings,
        *,
        batch_tokens: int,
        padding_side: PaddingSide = "right",
    ) -> None:
        self.batch_tokens = batch_tokens
        self._spec, self._padding_side = spec, padding_side
        self._renderer = load_renderer(spec, rendering)
        self.n_layers = int(load_config(spec).get_text_config().num_hidden_layers)

    @functools.cached_property
    def description(self) -> Mapping[str, Any]:
        """All that the hidden states depend on."""
        return {
            "encoder": "causal-lm",
            "name": self._spec.name,
            "revision": self._spec.revision,
            "model": model_fingerprint(self._spec),
            **self._renderer.description,
            "padding_side": self._padding_side,
            "dtype": self._spec.dtype,
        }

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the record's rendered text, in hexadecimal.

        What is learned is hashed beside the whole, since it decides what an over-long row loses, and over which tokens
        a mean is taken.
        """
        return _key(self._renderer.text(record))

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records.

        Raises:
            DataError: A record's completion has no token of its own, or the template refuses the record.
        """
        tokens, keys, truncated = list[TokenRow](), [], []
        for record in records:
            text = self._renderer.text(record)
            row = self._renderer.tokens(record, text=text)
            keys.append(_key(text))
            # 4 bytes an id, where a tuple would take some 36.
            tokens.append(TokenRow(array.array("i", row.input_ids), row.learned))
            truncated.append(row.truncated)
        return PreparedTexts(
            ids=tuple(record.id for record in records),
            keys=keys_from_hex(keys),
            lengths=np.array([len(row.ids) for row in tokens], dtype=np.int64),
            truncated=np.array(truncated, dtype=np.bool_),
            inputs=tokens,
        )

    def encode_batch(self, inputs: Sequence[TokenRow], readings: Sequence[Reading]) -> tuple[Tensor, ...]:
        """Runs one batch and reads vectors off it, [k, d] float32 on the CPU for each reading."""
        batch = pad_batch(inputs, padding_side=self._padding_side, pad_token_id=self._renderer.tokenizer.pad_token_id)
        with torch.inference_mode():
            states = read_hidden_states(self.decoder, batch, readings, n_layers=self.n_layers)
        return tuple(values.cpu() for values in states)

    @functools.cached_property
    def decoder(self) -> torch.nn.Module:
        """The text decoder without its head; in a multimodal model, the text part alone."""
        decoder: torch.nn.Module = load_causal_lm(self._spec, frozen=True).get_decoder()
        return decoder


class CausalLMEncoder(Encoder):
    """Encodes records by a causal language model, read at one layer in one way.

    Args:
        model: The model and how it is fed.
        layer: Whose output: 0 the embeddings, 1 to L the layers, negative ones from the end, as in ``hidden_states``.
            The last (-1 or L) is taken after the final norm.
        pooling: See `Reading`.

    Raises:
        ConfigError: The model has no such layer, or the pooling is unknown.
    """

    def __init__(self, model: FrozenCausalLM, *, layer: int, pooling: Pooling) -> None:
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}. Got {pooling!r}")
        self.model = model
        self.reading = Reading(_resolve_layer(layer, model.n_layers), pooling)
        self.batch_tokens = model.batch_tokens

    @functools.cached_property
    def description(self) -> Mapping[str, Any]:
        """All that the vectors depend on."""
        return {**self.model.description, "layer": self.reading.layer, "pooling": self.reading.pooling}

    @property
    def answer_from(self) -> float:
        """The second half of a vector is the completion's, where prompt and completion are joined."""
        return 0.5 if self.reading.pooling == "prompt_and_completion" else 0.0

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the record's rendered text, in hexadecimal."""
        return self.model.key(record)

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records.

        Raises:
            DataError: A record's completion has no token of its own, or the template refuses the record.
        """
        return self.model.prepare(records)

    def encode_batch(self, inputs: Sequence[TokenRow]) -> Tensor:
        """Encodes one batch of token rows, [k, d] float32 on the CPU."""
        (states,) = self.model.encode_batch(inputs, [self.reading])
        return states


class CausalLMReadings:
    """Several readings of one causal language model, all taken off the same forward pass.

    Args:
        model: The model and how it is fed.
        layers: Layers to read, each with every pooling.
        poolings: Poolings to read.

    Raises:
        ConfigError: A layer does not exist, or a pooling is unknown.
    """

    def __init__(self, model: FrozenCausalLM, *, layers: Sequence[int], poolings: Sequence[Pooling]) -> None:
        self.members = tuple(
            CausalLMEncoder(model, layer=layer, pooling=pooling) for layer in layers for pooling in poolings
        )
        self._model = model

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records, alike for all members.

        Raises:
            DataError: A record's completion has no token of its own, or the template refuses the record.
        """
        return self._model.prepare(records)

    def encode_members(self, inputs: Sequence[TokenRow], wanted: Sequence[int]) -> tuple[Tensor, ...]:
        """Encodes one batch, [k, d] float32 on the CPU for each of the wanted members."""
        return self._model.encode_batch(inputs, [self.members[number].reading for number in wanted])


def candidate_layers(n_layers: int) -> tuple[int, ...]:
    """Returns the layers that a choice is made among, the last first: those at the quarters of the depth.

    The embeddings are not among them: there the last token is the same for all rows where a template ends it.
    """
    return tuple(sorted({-(-n_layers * quarter // 4) for quarter in (1, 2, 3, 4)}, reverse=True))


def candidate_poolings(*, with_safe_reference: bool) -> tuple[Pooling, ...]:
    """Returns the poolings that a choice is made among, the paper's first.

    Prompt and completion joined are among them only where a safe reference says which answers are safe: without one
    nothing tells the part of the answer from the rest.
    """
    return tuple(one for one in POOLINGS if with_safe_reference or one != "prompt_and_completion")


def _key(text: RenderedText) -> str:
    return sha256_json([text.full, text.learned, text.literal])


def _resolve_layer(layer: int, n_layers: int) -> int:
    resolved = layer if layer >= 0 else n_layers + 1 + layer
    if not 0 <= resolved <= n_layers:
        raise ConfigError(
            f"layer {layer} does not exist: the model has {n_layers} layers; use 0 (the embeddings) to {n_layers}, "
            f"or -1 (the last) to {-n_layers - 1}"
        )
    return resolved
