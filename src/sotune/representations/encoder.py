"""What an encoder is, and the fixed order in which it works through its rows.

A number that comes out of a batch depends, in its last bits, on what else is in the batch. Batches are therefore a
fixed function of the whole input: a run that is killed and started again computes the same batches, and so the same
bytes.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.errors import ConfigError, DataError
from sotune.records import Record

OnProgress = Callable[[int, int], None]
"""Called with the number of texts that are done and the number of all texts."""

_N_NAMED = 5


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Records as an encoder reads them, one entry for each record.

    Attributes:
        ids: The records' ids, to name rows in errors.
        keys: SHA-256 of the rendered texts, uint8 [n, 32].
        lengths: Tokens of each, after truncation, int64 [n].
        truncated: Whether each lost text or tokens, bool [n].
        inputs: What the encoder's ``encode_batch`` takes, a sequence of length n.
    """

    ids: tuple[str, ...]
    keys: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    inputs: Sequence[Any]

    def of(self, rows: NDArray[np.int64]) -> PreparedTexts:
        """Returns some of the texts, by their positions."""
        ids, inputs = (tuple(each[row] for row in rows) for each in (self.ids, self.inputs))
        return PreparedTexts(ids, self.keys[rows], self.lengths[rows], self.truncated[rows], inputs)


class EncoderGroup(Protocol):
    """Encoders that differ only in what they read off the same pass over a text."""

    @property
    def members(self) -> Sequence[Encoder]:
        """The encoders, at least one, all with the same keys and limits."""
        ...

    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records, alike for all members."""
        ...

    def encode_members(self, inputs: Sequence[Any], wanted: Sequence[int]) -> tuple[Tensor, ...]:
        """Encodes one batch, [k, d] float32 on the CPU for each of the wanted members, by their numbers."""
        ...


class Encoder(ABC):
    """A frozen model that turns records into vectors; by itself, it is a group of one.

    Attributes:
        batch_tokens: Tokens that one batch may hold, padding included.
    """

    batch_tokens: int

    @property
    @abstractmethod
    def description(self) -> Mapping[str, Any]:
        """All that the vectors depend on: the model's content, layer, pooling, template, limits, dtype."""

    @property
    def answer_from(self) -> float:
        """Where in a vector the answer's part begins, in [0, 1): 0, all of it tells of the answer; 0.5, half."""
        return 0.0

    @abstractmethod
    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the record's rendered text, in hexadecimal."""

    @abstractmethod
    def prepare(self, records: Sequence[Record]) -> PreparedTexts:
        """Renders and tokenizes the records.

        Raises:
            DataError: A record's completion has no token of its own.
        """

    @abstractmethod
    def encode_batch(self, inputs: Sequence[Any]) -> Tensor:
        """Encodes one batch of ``PreparedTexts.inputs``, [k, d] float32 on the CPU.

        Raises:
            SotuneError: The device's memory does not hold the batch.
        """

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the description; together with a text's key it names a vector."""
        # A model is what it holds, not where it lies: a copied folder keeps its vectors.
        content = {key: value for key, value in self.description.items() if key not in ("name", "revision")}
        return sha256_json(content)[:16]

    @property
    def members(self) -> Sequence[Encoder]:
        """The encoder itself."""
        return (self,)

    def encode_members(self, inputs: Sequence[Any], wanted: Sequence[int]) -> tuple[Tensor, ...]:
        """Encodes one batch once, [k, d] float32 on the CPU for each time that the encoder is wanted."""
        return (self.encode_batch(inputs),) * len(wanted)

    def encode(self, records: Sequence[Record], *, progress: OnProgress | None = None) -> Tensor:
        """Encodes records without a cache, [n, d] float32 on the CPU, in their order.

        Raises:
            DataError: There are no records, or a representation is not finite.
        """
        return encode_group(self, records, progress=progress)[0]


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Representations of records, in the records' order.

    Attributes:
        ids: One id for each row.
        keys: SHA-256 of each row's rendered text, in hexadecimal.
        values: [n, d], float32.
        n_truncated: How many rows were too long and lost text.
        shards: Names of the cache's shards that the values were read from.
    """

    ids: tuple[str, ...]
    keys: tuple[str, ...]
    values: Tensor
    n_truncated: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """Some whole batches, computed and stored together.

    Attributes:
        name: Hash of the texts' keys and of the batches' borders.
        batches: Positions in the prepared texts, one array for each batch.
    """

    name: str
    batches: tuple[NDArray[np.int64], ...]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions of all texts of the shard, batch after batch, [k]."""
        return np.concatenate(self.batches)


def plan_shards(prepared: PreparedTexts, *, batch_tokens: int, shard_rows: int) -> tuple[Shard, ...]:
    """Sorts the unique texts by length, then key; packs them into batches, and whole batches into shards.

    Args:
        prepared: The texts. Of several with one key only the first is planned.
        batch_tokens: Rows times longest row that a batch may hold; a longer row is a batch of its own.
        shard_rows: A shard is closed once it has so many rows.

    Raises:
        DataError: There are no texts.
        ConfigError: A limit is not positive.
    """
    if len(prepared.ids) == 0:
        raise DataError("there are no records to encode; give at least one")
    if min(batch_tokens, shard_rows) < 1:
        raise ConfigError(
            f"batch_tokens and shard_rows must be at least 1. Got {batch_tokens} and {shard_rows}; raise them"
        )
    _, first = np.unique(_as_scalars(prepared.keys), return_index=True)
    order = first[np.argsort(prepared.lengths[first], kind="stable")]
    shards: list[Shard] = []
    open_batches: list[NDArray[np.int64]] = []
    n_open = 0
    for batch in _pack(order, prepared.lengths[order], batch_tokens):
        open_batches.append(batch)
        n_open += len(batch)
        if n_open >= shard_rows:
            shards.append(_shard(prepared.keys, open_batches))
            open_batches, n_open = [], 0
    if open_batches:
        shards.append(_shard(prepared.keys, open_batches))
    return tuple(shards)


def encode_group(group: EncoderGroup, records: Sequence[Record], *, progress: OnProgress | None = None) -> Tensor:
    """Encodes records by all members of a group at once, without a cache.

    Returns:
        Representations, [members, n, d] float32 on the CPU, in the records' order.

    Raises:
        DataError: There are no records, or a representation is not finite.
    """
    prepared = group.prepare(records)
    # No shard is larger than the number of records, so there is one.
    (shard,) = plan_shards(prepared, batch_tokens=group.members[0].batch_tokens, shard_rows=max(1, len(records)))
    parts, done = [], 0
    for states in encode_batches(group, prepared, shard, wanted=range(len(group.members))):
        parts.append(torch.stack(states))
        done += parts[-1].shape[1]
        if progress is not None:
            progress(done, len(shard.rows))
    positions = find_keys(prepared.keys, among=prepared.keys[shard.rows])
    return torch.cat(parts, dim=1)[:, torch.from_numpy(positions)]


def encode_batches(
    group: EncoderGroup, prepared: PreparedTexts, shard: Shard, *, wanted: Sequence[int]
) -> Iterator[tuple[Tensor, ...]]:
    """Encodes the batches of one shard in turn, each [k, d] float32 for each of the wanted members.

    Raises:
        DataError: A representation is not finite.
    """
    for batch in shard.batches:
        states = group.encode_members([prepared.inputs[row] for row in batch], wanted)
        finite = torch.stack([torch.isfinite(values).all(dim=1) for values in states]).all(dim=0)
        if not finite.all():
            raise _not_finite([prepared.ids[row] for row in batch[~finite.numpy()]])
        yield states


def find_keys(keys: NDArray[np.uint8], *, among: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the position of each key among others, [n]; that of its first occurrence, or -1 where it has none."""
    wanted, stored = _as_scalars(keys), _as_scalars(among)
    if len(stored) == 0:
        return np.full(len(keys), -1, dtype=np.int64)
    order = np.argsort(stored, kind="stable")
    ranks = np.minimum(np.searchsorted(stored, wanted, sorter=order), len(stored) - 1)
    positions: NDArray[np.int64] = np.where(stored[order[ranks]] == wanted, order[ranks], -1)
    return positions


def keys_from_hex(keys: Sequence[str]) -> NDArray[np.uint8]:
    """Returns hexadecimal keys as uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(len(keys), 32)


def _pack(order: NDArray[np.int64], lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    start = 0
    for end in range(1, len(order) + 1):
        # Lengths ascend, so the next row would be the longest of the batch.
        if end == len(order) or (end + 1 - start) * lengths[end] > batch_tokens:
            yield order[start:end]
            start = end


def _as_scalars(keys: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    # One fixed-width byte string for each key: these sort and compare, rows of bytes do not.
    return np.ascontiguousarray(keys).view("S32").reshape(len(keys))


def _shard(keys: NDArray[np.uint8], batches: Sequence[NDArray[np.int64]]) -> Shard:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(len(batch).to_bytes(8, "little"))
        digest.update(keys[batch].tobytes())
    return Shard(name=digest.hexdigest()[:32], batches=tuple(batches))


def _not_finite(ids: Sequence[str]) -> DataError:
    named = ", ".join(repr(id) for id in ids[:_N_NAMED]) + (", ..." if len(ids) > _N_NAMED else "")
    return DataError(
        f"the model returned representations with NaN or infinity for {len(ids)} rows of one batch: {named}; "
        f"use dtype float32, and if that does not help, drop these rows"
    )
