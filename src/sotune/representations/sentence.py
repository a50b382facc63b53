"""Sentence embeddings: representations without a causal LM, for a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import sha256_file, sha256_json, sha256_text
from sotune.errors import ConfigError
from sotune.records import Message, Record
from sotune.rendering import render
from sotune.representations.base import Measure, check_finite


class SentenceEncoder:
    """A sentence-transformers model over the paper's rendering, to unit length.

    Long texts are cut before rendering, to the end of the prompt and the start of the completion, since such models
    read a few hundred tokens only.

    Args:
        path: A model folder, or a Hub id.
        device: Device name for torch.
        max_tokens: Token limit of a text.
        max_chars: How many characters of the prompt's end, and of the completion's start, are read.
        batch_tokens: How many tokens one batch may hold, padding included.

    Raises:
        ConfigError: sentence-transformers is not installed, or the model cannot be loaded.
    """

    def __init__(
        self, path: str, *, device: str = "cpu", max_tokens: int = 160, max_chars: int = 1500, batch_tokens: int = 8192
    ) -> None:
        self._path, self._device, self._max_tokens, self._max_chars = path, device, max_tokens, max_chars
        self.batch_tokens = batch_tokens
        self.description = {
            "encoder": "sentence-transformers",
            "model": _folder_digest(path),
            "template": "paper",
            "max_tokens": max_tokens,
            "max_chars": max_chars,
            "unit_length": True,
        }
        self.fingerprint = sha256_json(self.description)[:16]

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                "encoder sentence-transformers:… needs a package that is not installed: pip install 'sotune[sentence]'"
            ) from error
        try:
            model = SentenceTransformer(self._path, device=self._device, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"encoder {self._path!r} cannot be loaded: {str(error).splitlines()[0]}. Name a folder that holds a "
                f"sentence-transformers model"
            ) from error
        model.max_seq_length = self._max_tokens
        return model

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the rendered text."""
        return sha256_text(self._text(record))

    def measure(self, record: Record) -> Measure:
        """Returns how many tokens the record has, and whether characters or tokens of it are cut."""
        full = sum(len(message.content) for message in record.messages)
        kept = sum(len(message.content) for message in self._cut(record).messages)
        n_tokens = len(self._model.tokenizer(self._text(record))["input_ids"])
        return Measure(min(n_tokens, self._max_tokens), kept < full or n_tokens > self._max_tokens)

    def encode(self, records: Sequence[Record]) -> Tensor:
        """Encodes one batch of records: ``[n, d]``, float32, unit length, on the CPU.

        Raises:
            DataError: A representation is NaN or infinite.
        """
        values: Tensor = self._model.encode(
            [self._text(record) for record in records],
            batch_size=len(records),
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        values = values.to(device="cpu", dtype=torch.float32)
        check_finite(values, records)
        return values

    def _text(self, record: Record) -> str:
        return render(self._cut(record), "paper").full

    def _cut(self, record: Record) -> Record:
        room, turns = self._max_chars, list[Message]()
        for message in reversed(record.prompt):
            content = message.content[-room:] if room else ""
            room -= len(content)
            turns.append(replace(message, content=content))
            if not room:
                break
        return replace(record, prompt=tuple(reversed(turns)), completion=record.completion[: self._max_chars])


def _folder_digest(path: str) -> str:
    folder = Path(path)
    if not folder.is_dir():
        return path
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".txt"))
    return sha256_json({str(p.relative_to(folder)): sha256_file(p) for p in files})[:16]
