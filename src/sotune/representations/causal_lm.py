"""The paper's representation: the last token's hidden state in the frozen LM that will be fine-tuned (§4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import sha256_json, sha256_text
from sotune.errors import ConfigError
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer, model_fingerprint
from sotune.records import Record
from sotune.rendering import Template, render, tokenize
from sotune.representations.base import Measure, check_finite


class CausalLMEncoder:
    """Last-token hidden state of one layer of any Hugging Face causal LM.

    The decoder runs without its language-model head, so no logits are computed. Weights load when they are first
    needed: a fully cached set never loads the model.

    Args:
        spec: Which model.
        layer: Index into ``hidden_states``: 0 is the embeddings, -1 the last layer after its final norm.
        template: How a record becomes text.
        max_length: Token limit of a record.
        batch_tokens: How many tokens one batch may hold, padding included.
        padding_side: Where padding goes; the result does not depend on it.

    Raises:
        ConfigError: The model cannot be found, or has no such layer.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        layer: int,
        template: Template,
        max_length: int,
        batch_tokens: int,
        padding_side: str = "right",
    ) -> None:
        self._spec, self._layer, self._template = spec, layer, template
        self._max_length, self._padding_side = max_length, padding_side
        self.batch_tokens = batch_tokens
        self.description = {
            "encoder": "causal-lm",
            "model": model_fingerprint(spec),
            "layer": layer,
            "pooling": "last-token",
            "template": template,
            "max_length": max_length,
            "dtype": spec.dtype,
        }
        self.fingerprint = sha256_json(self.description)[:16]

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self._spec)

    @cached_property
    def _decoder(self) -> Any:
        decoder = load_causal_lm(self._spec).get_decoder()
        n_layers = decoder.config.get_text_config().num_hidden_layers
        if not -n_layers - 1 <= self._layer <= n_layers:
            raise ConfigError(
                f"layer {self._layer} does not exist: {self._spec.name!r} has {n_layers} layers, so layers run from "
                f"0 (the embeddings) to {n_layers}, or from {-n_layers - 1} to -1"
            )
        return decoder

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the rendered text."""
        tokenizer = self.tokenizer if self._template == "chat" else None
        return sha256_text(render(record, self._template, tokenizer).full)

    def measure(self, record: Record) -> Measure:
        """Returns how many tokens the record has, and whether it is cut to the limit."""
        tokens = self._tokenize(record)
        return Measure(len(tokens.input_ids), tokens.truncated)

    @torch.inference_mode()
    def encode(self, records: Sequence[Record]) -> Tensor:
        """Encodes one batch of records: ``[n, d]``, float32, on the CPU.

        Raises:
            DataError: A representation is NaN or infinite.
        """
        decoder = self._decoder
        rows = [self._tokenize(record).input_ids for record in records]
        input_ids, mask = _pad(rows, self.tokenizer.pad_token_id, self._padding_side)
        input_ids, mask = input_ids.to(decoder.device), mask.to(decoder.device)
        middle = self._layer not in (-1, decoder.config.get_text_config().num_hidden_layers)
        output = decoder(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp_(min=0),
            use_cache=False,
            output_hidden_states=middle,
        )
        states = output.hidden_states[self._layer] if middle else output.last_hidden_state
        last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
        values: Tensor = states[torch.arange(len(rows), device=states.device), last].float().cpu()
        check_finite(values, records)
        return values

    def _tokenize(self, record: Record) -> Any:
        return tokenize(record, self.tokenizer, template=self._template, max_length=self._max_length)


def _pad(rows: Sequence[Sequence[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask, both ``[n, longest]``."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        mask[i, where] = 1
    return ids, mask
