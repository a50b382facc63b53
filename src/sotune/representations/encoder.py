"""What an encoder is, and the fixed order in which it works through its rows.

A number that comes out of a batch depends, in its last bits, on what else is in the batch. Batches are therefore a
fixed function of the whole input: a run that is killed and started again computes the same batches, and so the same
bytes.
"""

from __future__ import annotations

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.errors import ConfigError, DataError, SotuneError
from sotune.records import Record

OnProgress = Callable[[int, int], None]
"""Called with the number of texts that are done and the number of all texts."""

PASS_COST = 1 / 32
"""What a pass costs beyond its tokens, as a share of the tokens of a full batch; as many of a batch may be padding."""
_N_NAMED = 5
_CHARS_A_TOKEN = 4


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
        packs: Whether ``encode_batch`` makes batches of its own out of whatever it is given, such as a whole shard.
    """

    batch_tokens: int
    packs: bool = False

    @property
    @abstractmethod
    def description(self) -> Mapping[str, Any]:
        """All that the vectors depend on: the model's content, layer, pooling, template, limits, dtype."""

    @property
    def answer_from(self) -> float:
        """Where in a vector the answer's part begins, in [0, 1): 0, all of it tells of the answer; 0.5, half."""
        return 0.0

    @property
    def window(self) -> int:
        """Characters of an answer that one vector stands for well; what is longer is read in parts besides."""
        return _CHARS_A_TOKEN * 400

    @property
    def parts_alike(self) -> bool:
        """Whether both halves of a vector are read in the same way, so that an answer's may stand for a prompt's."""
        return False

    @property
    def glances(self) -> bool:
        """Whether texts can be looked at without reading them (`glance`)."""
        return False

    def glance(self, texts: Sequence[str]) -> Tensor:
        """Returns for each text the mean of its tokens' own vectors, ``[k, e]`` of length 1: no forward pass.

        Where one stands among others does not change a bit of it.
        """
        raise NotImplementedError

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
        hashes: SHA-256 of each row's rendered text, uint8 [n, 32].
        values: [n, d], float32.
        truncated: Which rows were too long and lost text, [n].
        shards: Names of the cache's shards that the values were read from.
    """

    ids: Sequence[str]
    hashes: NDArray[np.uint8]
    values: Tensor
    truncated: NDArray[np.bool_]
    shards: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """SHA-256 of each row's rendered text, in hexadecimal."""
        return tuple(hex_keys(self.hashes))

    @property
    def n_truncated(self) -> int:
        """How many rows lost text."""
        return int(self.truncated.sum())


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


def plan_shards(
    prepared: PreparedTexts, *, batch_tokens: float, shard_rows: int, wanted: NDArray[np.bool_] | None = None
) -> tuple[Shard, ...]:
    """Sorts the unique texts by length, then key; packs them into batches, and whole batches into shards.

    Batches and shards are closed by what is in them and by the next row, which is no shorter: without some whole
    shards of a plan, the other texts are planned as before.

    Args:
        prepared: The texts. Of several with one key only the first is planned.
        batch_tokens: Rows times longest row that a batch may hold; a longer row is a batch of its own.
        shard_rows: A shard is closed once it has so many rows.
        wanted: Which texts are planned, [n]; None: all.

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
    if wanted is not None:
        first = first[wanted[first]]
    order = first[np.argsort(prepared.lengths[first], kind="stable")]
    shards: list[Shard] = []
    open_batches: list[NDArray[np.int64]] = []
    n_open = 0
    batches = pack(prepared.lengths[order], batch_tokens, most_rows=shard_rows)
    for batch in (order[batch] for batch in batches):
        open_batches.append(batch)
        n_open += len(batch)
        if n_open >= shard_rows:
            shards.append(_shard(prepared.keys, open_batches))
            open_batches, n_open = [], 0
    if open_batches:
        shards.append(_shard(prepared.keys, open_batches))
    return tuple(shards)


def pack(lengths: NDArray[np.int64], batch_tokens: float, *, most_rows: float = math.inf) -> Iterator[slice]:
    """Yields batches of rows whose lengths ascend, closed where more padding would cost more than another pass.

    Args:
        lengths: Tokens of each row, ascending, [n].
        batch_tokens: Rows times longest row that a batch may hold; infinite, nothing is padded and rows alone count.
        most_rows: A batch is closed once it has so many rows.
    """
    start, n_tokens = 0, 0
    for end, length in enumerate(lengths[1:].tolist(), 1):
        n_tokens += int(lengths[end - 1])
        filled = (end + 1 - start) * length  # with the next row, which would be the longest
        padding = filled - n_tokens - length
        if filled > batch_tokens or padding > batch_tokens * PASS_COST or end - start >= most_rows:
            yield slice(start, end)
            start, n_tokens = end, 0
    if len(lengths):
        yield slice(start, len(lengths))


def encode_group(group: EncoderGroup, records: Sequence[Record], *, progress: OnProgress | None = None) -> Tensor:
    """Encodes records by all members of a group at once, without a cache.

    Returns:
        Representations, [members, n, d] float32 on the CPU, in the records' order.

    Raises:
        DataError: There are no records, or a representation is not finite.
    """
    prepared = group.prepare(records)
    # No shard is larger than the number of records, so there is one.
    (shard,) = plan_shards(prepared, batch_tokens=planned_tokens(group), shard_rows=max(1, len(records)))
    parts, done = [], 0
    for states in encode_batches(group, prepared, shard, wanted=range(len(group.members))):
        parts.append(torch.stack(states))
        done += parts[-1].shape[1]
        if progress is not None:
            progress(done, len(shard.rows))
    positions = find_keys(prepared.keys, among=prepared.keys[shard.rows])
    return torch.cat(parts, dim=1)[:, torch.from_numpy(positions)]


def planned_tokens(group: EncoderGroup) -> float:
    """Returns the tokens that a planned batch may hold: no limit where the encoder packs its own batches."""
    first = group.members[0]
    return math.inf if first.packs else first.batch_tokens


@dataclass
class Room:
    """How many tokens one pass may hold: less than what did not fit into memory once, which is not tried again."""

    tokens: float = math.inf


def encode_batches(
    group: EncoderGroup, prepared: PreparedTexts, shard: Shard, *, wanted: Sequence[int], room: Room | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Encodes the batches of one shard in turn, each [k, d] float32 for each of the wanted members.

    A batch that memory does not hold is halved until it does; the shard and its name stay as they are.

    Raises:
        DataError: A representation is not finite.
        SotuneError: Memory does not hold a single row.
    """
    room = Room() if room is None else room
    for batch in shard.batches:
        states = _encode_in(room, group, prepared, batch, wanted)
        finite = torch.stack([torch.isfinite(values).all(dim=1) for values in states]).all(dim=0)
        if not finite.all():
            raise _not_finite([prepared.ids[row] for row in batch[~finite.numpy()]])
        yield states


def _encode_in(
    room: Room, group: EncoderGroup, prepared: PreparedTexts, batch: NDArray[np.int64], wanted: Sequence[int]
) -> tuple[Tensor, ...]:
    n_tokens = len(batch) * int(prepared.lengths[batch].max())
    if n_tokens < room.tokens or len(batch) == 1:
        try:
            return group.encode_members([prepared.inputs[row] for row in batch], wanted)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise SotuneError(
                    f"row {prepared.ids[batch[0]]!r} of {n_tokens} tokens does not fit into memory, even alone; "
                    f"lower max_length, or use a smaller dtype"
                ) from None
        room.tokens = n_tokens
    halves = [_encode_in(room, group, prepared, half, wanted) for half in np.array_split(batch, 2)]
    return tuple(torch.cat(parts) for parts in zip(*halves, strict=True))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tells CUDA's and others' lack of memory from other errors; the allocator of a CPU has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def order_of(keys: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the positions of keys in ascending order, [n]; equal ones in theirs."""
    return np.argsort(_as_scalars(keys), kind="stable")


def find_keys(
    keys: NDArray[np.uint8], *, among: NDArray[np.uint8], order: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Returns the position of each key among others, [n]; that of its first occurrence, or -1 where it has none.

    Args:
        keys: What is looked for.
        among: Where.
        order: The `order_of` these, where it is known.
    """
    wanted, stored = _as_scalars(keys), _as_scalars(among)
    if len(stored) == 0:
        return np.full(len(keys), -1, dtype=np.int64)
    order = order_of(among) if order is None else order
    ranks = np.minimum(np.searchsorted(stored, wanted, sorter=order), len(stored) - 1)
    positions: NDArray[np.int64] = np.where(stored[order[ranks]] == wanted, order[ranks], -1)
    return positions


def keys_from_hex(keys: Sequence[str]) -> NDArray[np.uint8]:
    """Returns hexadecimal keys as uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(len(keys), 32)


def hex_keys(keys: NDArray[np.uint8]) -> list[str]:
    """Returns keys in hexadecimal."""
    return [key.tobytes().hex() for key in keys]


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
