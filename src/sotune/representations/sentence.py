"""Sentence embeddings: representations without a causal LM, for a laptop."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from sotune.artifacts import sha256_json, sha256_text
from sotune.errors import ConfigError, first_line
from sotune.models import ModelSpec, download_model, model_fingerprint
from sotune.records import Message, Record
from sotune.rendering import render_paper
from sotune.representations.encoder import Encoder, PreparedTexts, keys_from_hex, pack

Parts = Literal["together", "apart"]
PARTS: tuple[Parts, ...] = get_args(Parts)


class Part(NamedTuple):
    """A text to encode, with its tokens before it is cut; parts sort by length."""

    n_tokens: int
    text: str


class SentenceEncoder(Encoder):
    """Encodes records by a sentence-transformers model, over the paper's rendering.

    Long texts are cut before rendering, to the end of the prompt and the start of the completion, since such models
    read a few hundred tokens only.

    Args:
        path: A model folder, or a Hub id.
        device: Device name for torch.
        max_tokens: Token limit of a text; the model's own where that is smaller.
        max_chars: How many characters of the prompt's end, and of the completion's start, are read.
        normalize: Whether vectors are scaled to unit length.
        batch_tokens: Tokens that one batch may hold, padding included.
        parts: ``together`` encodes prompt and completion as one text, in the paper's template; ``apart`` encodes each
            for itself and joins the two vectors, which keeps what was asked apart from what was answered.

    Raises:
        ConfigError: ``parts`` is unknown, sentence-transformers is not installed, or the model cannot be loaded.
    """

    packs = True

    def __init__(
        self,
        path: str,
        *,
        device: str = "cpu",
        max_tokens: int = 160,
        max_chars: int = 1500,
        normalize: bool = True,
        batch_tokens: int = 8192,
        parts: Parts = "together",
    ) -> None:
        if parts not in PARTS:
            raise ConfigError(f"parts must be one of {', '.join(PARTS)}. Got {parts!r}")
        self.batch_tokens = batch_tokens
        self._parts = parts
        self._spec = ModelSpec(path, device=device)
        self._max_tokens, self._max_chars, self._normalize = max_tokens, max_chars, normalize

    @functools.cached_property
    def description(self) -> Mapping[str, Any]:
        """All that the vectors depend on."""
        return {
            "encoder": "sentence-transformers",
            "name": self._spec.name,
            "model": model_fingerprint(self._spec),
            "template": "paper",
            "max_tokens": self._max_tokens,
            "max_chars": self._max_chars,
            "unit_length": self._normalize,
            **({} if self._parts == "together" else {"template": None, "parts": self._parts}),
        }

    @property
    def answer_from(self) -> float:
        """The second half of a vector is the completion's, where the parts are encoded apart."""
        return 0.5 if self._parts == "apart" else 0.0

    @property
    def window(self) -> int:
        """Characters of an answer that one vector stands for well: about as many as the model reads."""
        return 4 * self._max_tokens

    @property
    def parts_alike(self) -> bool:
        """Both halves of a vector are sentence embeddings, where the parts are encoded apart."""
        return self._parts == "apart"

    @property
    def glances(self) -> bool:
        """Where the parts are encoded apart: of other vectors, stretches of a text were never half."""
        return self._parts == "apart" and len(self._vocabulary) > 0

    def glance(self, texts: Sequence[str]) -> Tensor:
        """Looks at texts by the model's own table of token embeddings, each centered and of length 1."""
        ids = self._model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        starts = torch.tensor([0, *itertools.accumulate(map(len, ids[:-1]))])
        flat = torch.tensor([*itertools.chain.from_iterable(ids)], dtype=torch.int64)
        means = torch.nn.functional.embedding_bag(flat, self._vocabulary, starts, mode="mean")
        return torch.nn.functional.normalize(means)

    @functools.cached_property
    def _vocabulary(self) -> Tensor:
        """The table, ``[v, e]``; empty where the model has none."""
        transformer = getattr(self._model[0], "auto_model", None)
        if transformer is None:
            return torch.zeros(0, 0)
        table = transformer.get_input_embeddings().weight.detach().to("cpu", torch.float32)
        return torch.nn.functional.normalize(table - table.mean(dim=0))

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of what is read of the record, in hexadecimal."""
        return _key(self._texts(record))

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Cuts, renders and measures the records."""
        texts = [self._texts(record) for record in records]
        limit = self._model.max_seq_length
        counted = self._count_tokens({text for one in texts for text in one})
        parts = [tuple(Part(counted[text], text) for text in one) for one in texts]
        cut = [_n_chars(self._cut(record)) < _n_chars(record) for record in records]
        truncated = [c or max(one).n_tokens > limit for c, one in zip(cut, parts, strict=True)]
        return PreparedTexts(
            ids=tuple(record.id for record in records),
            keys=keys_from_hex([_key(one) for one in texts]),
            lengths=np.array([sum(min(part.n_tokens, limit) for part in one) for one in parts], dtype=np.int64),
            truncated=np.array(truncated, dtype=np.bool_),
            inputs=parts,
        )

    def encode_batch(self, inputs: Sequence[tuple[Part, ...]]) -> Tensor:
        """Encodes some texts, or pairs of texts, [k, d] float32 on the CPU.

        Equal parts are encoded once, and parts of like length together, whatever they are parts of.
        """
        parts = sorted({part for one in inputs for part in one})
        lengths = np.array([min(part.n_tokens, self._model.max_seq_length) for part in parts], dtype=np.int64)
        batches = [self._encode_texts([part.text for part in parts[b]]) for b in pack(lengths, self.batch_tokens)]
        values, places = torch.cat(batches), {part: place for place, part in enumerate(parts)}
        return torch.cat([values[[places[part] for part in each]] for each in zip(*inputs, strict=True)], dim=1)

    def _encode_texts(self, texts: list[str]) -> Tensor:
        values: Tensor = self._model.encode(
            texts,
            batch_size=len(texts),
            normalize_embeddings=self._normalize,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return values.to(device="cpu", dtype=torch.float32)

    @functools.cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError:
            raise ConfigError(
                "encoder sentence-transformers:PATH needs a package that is not installed: pip install "
                "'sotune[sentence]'"
            ) from None
        folder = download_model(self._spec)  # refuses pickled weights and modules of its own before anything is read
        logging.disable_progress_bar()  # reading weights is not the work that a user waits for
        try:
            model = SentenceTransformer(str(folder), device=self._spec.device, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"encoder {self._spec.name!r} could not be loaded ({first_line(error)}); name a folder that holds a "
                f"sentence-transformers model"
            ) from None
        model.tokenizer.split_special_tokens = True  # [SEP] in a row's text is text
        model.max_seq_length = min(self._max_tokens, model.max_seq_length or self._max_tokens)
        return model

    def _count_tokens(self, texts: set[str]) -> dict[str, int]:
        listed = sorted(texts)
        ids = self._model.tokenizer(listed, verbose=False)["input_ids"]
        return {text: len(one) for text, one in zip(listed, ids, strict=True)}

    def _texts(self, record: Record) -> tuple[str, ...]:
        read = self._cut(record)
        if self._parts == "together":
            return (render_paper(read.messages, tools=read.tools),)
        asked = [read.messages[i].text for i in range(len(read.messages)) if i not in read.learned]
        return ("\n".join(asked), "\n".join(read.messages[i].text for i in read.learned))

    def _cut(self, record: Record) -> Record:
        room, turns = self._max_chars, list[Message]()
        for message in reversed(record.prompt):
            if room == 0:
                break
            content = message.content[-room:]
            room -= len(content)
            turns.append(replace(message, content=content))
        answer = record.messages[-1]
        cut = replace(answer, content=answer.content[: self._max_chars])
        return replace(record, messages=(*reversed(turns), cut))


def _key(texts: tuple[str, ...]) -> str:
    return sha256_text(texts[0]) if len(texts) == 1 else sha256_json(texts)


def _n_chars(record: Record) -> int:
    return sum(len(message.content) for message in record.messages)
